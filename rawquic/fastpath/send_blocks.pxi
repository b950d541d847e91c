# Blocks: page-aligned memory that batches are built in, and that the kernel may send from where it
# lies (udp_splice).
#
# A page that is lent to the kernel is not written again until the peer has acknowledged every packet
# in it: then it has what was sent to it. Where a packet was lost, or the connection ends, or another
# connection is to use the block, nobody knows: then its pages are given back to the system, which
# keeps them until the kernel's last reference is gone, and the block gets fresh ones. So nothing of
# one connection gets into a packet of another, whatever a peer acknowledges. Within a connection
# that is not so: who acknowledges what has not arrived, or keeps the kernel's own copies of packets
# (a tap, a mirrored port), may find later bytes in an earlier packet, unsealed ones as well.
#
# Fresh pages cost several times what the copy costs that they save. So a block stays with its
# connection for as long as it can, and a connection gets another one rarely (COPIES_LEAST).

cdef enum:
    BLOCK_BYTES = 131072   # OUT_ROOM, and what fills its last page
    BLOCKS_MOST = 64       # of the process: 4 MiB of trains; with more in flight they are copied
    COPIES_LEAST = 16      # large batches of a connection, for each block with fresh pages

cdef struct Block:
    uint8_t *bytes         # owned: BLOCK_BYTES
    Block *next
    uint64_t lender        # the connection whose packets are or were in it
    uint64_t first, behind # their numbers, while it is lent: first .. behind - 1

cdef struct BlockQueue:
    Block *head            # owned list: those lent longest come first
    Block *tail
    uint64_t number        # of this connection among all that ever lent; 0: it never did
    uint64_t lost_behind   # one more than the largest packet number that was lost
    unsigned int copied    # large batches, since it got fresh pages

# Of the process; touched with the GIL.
cdef Block *spare_blocks = NULL   # owned list
cdef unsigned int block_count = 0
cdef uint64_t lenders = 0


cdef Block *block_new(uint64_t lender) noexcept:
    """A block with fresh pages; NULL where there is no memory, or there are enough of them."""
    global block_count
    cdef Block *block
    if block_count == BLOCKS_MOST:
        return NULL
    block = <Block *>calloc(1, sizeof(Block))
    if block == NULL:
        return NULL
    block.bytes = <uint8_t *>mmap(
        NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if block.bytes == MAP_FAILED:
        free(block)
        return NULL
    block_count += 1
    block.lender = lender
    return block


cdef Block *block_renew(Block *block, uint64_t lender) noexcept:
    """The block, or another, with fresh pages; NULL where there is no memory."""
    if madvise(block.bytes, BLOCK_BYTES, MADV_DONTNEED) == 0:
        block.lender = lender
        return block
    block_free(block)  # pages locked into memory stay
    return block_new(lender)


cdef void block_free(Block *block) noexcept:
    global block_count
    munmap(block.bytes, BLOCK_BYTES)
    free(block)
    block_count -= 1


cdef Block *block_own(uint64_t lender) noexcept:
    """A spare block that had packets of this connection last; NULL: there is none."""
    cdef Block **link = &spare_blocks
    cdef Block *block
    while link[0] != NULL:
        block = link[0]
        if block.lender == lender:
            link[0] = block.next
            return block
        link = &block.next
    return NULL


cdef Block *block_take(BlockQueue *self, uint64_t settled, bint renew) noexcept:
    """A block to build in, all of whose pages are ours alone; NULL: there is none.

    `settled`: the packets of this connection below it are acknowledged or lost. `renew`: its pages
    may be fresh ones.
    """
    global spare_blocks, lenders
    cdef Block *block
    if self.number == 0:
        lenders += 1
        self.number = lenders
    while self.head != NULL and self.head.behind <= settled:
        block = self.head
        self.head = block.next
        if block.first >= self.lost_behind:
            return block
        if renew:
            self.copied = 0
            return block_renew(block, self.number)
        block_free(block)
    block = block_own(self.number)
    if block == NULL and renew:
        self.copied = 0
        block = block_new(self.number)
        if block == NULL and spare_blocks != NULL:
            block = spare_blocks
            spare_blocks = block.next
            block = block_renew(block, self.number)
    return block


cdef void block_lend(BlockQueue *self, Block *block, uint64_t first, uint64_t behind) noexcept:
    """The kernel has the pages with packets first .. behind - 1."""
    block.first, block.behind, block.next = first, behind, NULL
    if self.head == NULL:
        self.head = block
    else:
        self.tail.next = block
    self.tail = block


cdef void block_spare(Block *block) noexcept:
    """Its connection does not need it now, and has nothing in it that is not acknowledged."""
    global spare_blocks
    block.next = spare_blocks
    spare_blocks = block


cdef void blocks_give_back(BlockQueue *self, uint64_t settled) noexcept:
    """Let go of the blocks whose packets are settled."""
    cdef Block *block
    while self.head != NULL and self.head.behind <= settled:
        block = self.head
        self.head = block.next
        if block.first >= self.lost_behind:
            block_spare(block)
        else:
            block_free(block)


cdef void blocks_free(BlockQueue *self) noexcept:
    """The connection ends; what the kernel has of its blocks stays until it has sent it."""
    cdef Block *block
    while self.head != NULL:
        block = self.head
        self.head = block.next
        block_free(block)
