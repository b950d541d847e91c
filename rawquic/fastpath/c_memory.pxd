# Pages of memory, from the system: declarations only. Included, as c_socket is.

cdef extern from "<sys/mman.h>" nogil:
    const int MADV_DONTNEED
    const int MADV_HUGEPAGE
    const int MAP_ANONYMOUS
    const int MAP_FIXED
    const int MAP_PRIVATE
    const int PROT_READ
    const int PROT_WRITE
    void *MAP_FAILED
    int madvise(void *start, size_t size, int advice)
    void *mmap(void *start, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *start, size_t size)
