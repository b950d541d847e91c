# Blocks: memory that batches are sealed to, and that the kernel may send from where it lies
# (udp_splice).
#
# A page that is lent to the kernel is not written again until the peer has acknowledged every packet
# in it: then it has what was sent to it. Where a packet was lost, or the connection ended, or another
# connection is to use the block, nobody knows: then the block gets fresh pages first, and the system
# keeps the old ones until the kernel's last reference is gone. So nothing of one connection gets into
# a packet of another, whatever a peer acknowledges. And only what is sealed is written to a block:
# who keeps the kernel's copies of packets for longer (a tap, a mirrored port) may find a later packet
# of the same connection in one, never what it says.
#
# Fresh pages cost several times the copy that they save. So a block stays with its connection for as
# long as it can, and what gets fresh pages does so rarely (COPIES_LEAST). All blocks lie in one
# region, of huge pages where the system has them: those cost a connection next to nothing.

cdef enum:
    BLOCK_BYTES = 65536     # OUT_BYTES, and what fills the last page
    BLOCKS_MOST = 64        # of the process: with more in flight, trains are copied
    HUGE_PAGE = 2097152
    COPIES_LEAST = 16       # large batches that a connection copies, for each time it gets fresh pages

cdef enum:
    NOBODY = 0              # of the kernel, for all that is known; connections count from 1

cdef struct Block:
    uint8_t *bytes          # borrowed from the region: BLOCK_BYTES
    Block *next
    uint64_t lender         # the connection that it was last lent by, and got back; or NOBODY
    uint64_t first, behind  # the numbers of its packets, while it is lent: first .. behind - 1

cdef struct BlockQueue:
    Block *head             # list of the lent ones; those lent longest come first
    Block *tail
    uint64_t number         # of this connection among all that ever lent; 0: it never did
    uint64_t lost_behind    # one more than the largest packet number that was lost
    unsigned int copied     # large batches, since it got fresh pages

# Of the process; touched with the GIL.
cdef uint8_t *region = NULL       # BLOCKS_MOST * BLOCK_BYTES, aligned to HUGE_PAGE; for ever
cdef Block blocks[BLOCKS_MOST]
cdef unsigned int blocks_begun = 0
cdef Block *spare_blocks = NULL   # list of those that are not lent
cdef uint64_t lenders = 0


cdef Block *block_new() noexcept:
    """A block that was never used; NULL where all were, or there is no memory."""
    global region, blocks_begun
    cdef size_t size = <size_t>BLOCKS_MOST * BLOCK_BYTES
    cdef Block *block
    cdef void *found
    if region == NULL:
        found = mmap(
            NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if found == MAP_FAILED:
            return NULL
        region = <uint8_t *>((<size_t>found + HUGE_PAGE - 1) & ~<size_t>(HUGE_PAGE - 1))
        madvise(region, size, MADV_HUGEPAGE)
    if blocks_begun == BLOCKS_MOST:
        return NULL
    block = &blocks[blocks_begun]
    block.bytes = region + <size_t>blocks_begun * BLOCK_BYTES
    blocks_begun += 1
    return block


cdef Block *block_spare(uint64_t lender) noexcept:
    """Take a spare block that this connection got back; NULL: there is none. NOBODY: any one."""
    cdef Block **link = &spare_blocks
    cdef Block *block
    while link[0] != NULL:
        block = link[0]
        if lender == NOBODY or block.lender == lender:
            link[0] = block.next
            return block
        link = &block.next
    return NULL


cdef void block_put(Block *block, uint64_t lender) noexcept:
    """Nobody needs it now. `lender`: who has got it back from the kernel, or NOBODY."""
    global spare_blocks
    block.lender = lender
    block.next = spare_blocks
    spare_blocks = block


cdef Block *block_renew(Block *block) noexcept:
    """The block with fresh pages; NULL where there are none."""
    if madvise(block.bytes, BLOCK_BYTES, MADV_DONTNEED) == 0 or (
        # Pages that are locked into memory stay; but they can be replaced.
        mmap(block.bytes, BLOCK_BYTES, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED
    ):
        return block
    block_put(block, NOBODY)
    return NULL


cdef Block *block_take(BlockQueue *self, uint64_t settled) noexcept:
    """A block to seal to, all of whose pages are ours alone; NULL: there is none, so copy.

    `settled`: the packets of this connection below it are acknowledged or lost.
    """
    global lenders
    cdef Block *block
    if self.number == 0:
        lenders += 1
        self.number = lenders
    while self.head != NULL and self.head.behind <= settled:
        block = self.head
        self.head = block.next
        if block.first >= self.lost_behind:
            return block
        block_put(block, NOBODY)
    block = block_spare(self.number)
    if block == NULL:
        block = block_new()
    if block == NULL and self.copied >= COPIES_LEAST:
        block = block_spare(NOBODY)
        if block != NULL:
            self.copied = 0
            block = block_renew(block)
    return block


cdef void block_lend(BlockQueue *self, Block *block, uint64_t first, uint64_t behind) noexcept:
    """The kernel has the pages with packets first .. behind - 1."""
    block.first, block.behind, block.next = first, behind, NULL
    if self.head == NULL:
        self.head = block
    else:
        self.tail.next = block
    self.tail = block


cdef void blocks_give_back(BlockQueue *self, uint64_t settled) noexcept:
    """Let go of the blocks whose packets are settled."""
    cdef Block *block
    while self.head != NULL and self.head.behind <= settled:
        block = self.head
        self.head = block.next
        block_put(block, self.number if block.first >= self.lost_behind else NOBODY)


cdef void blocks_free(BlockQueue *self) noexcept:
    """The connection ends; what the kernel has of its blocks stays until it has sent it."""
    self.lost_behind = UINT64_MAX
    blocks_give_back(self, UINT64_MAX)
