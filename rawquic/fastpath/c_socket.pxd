# What the parts on UDP use of Linux's socket interface: declarations only, no code.
#
# Included, not cimported: the folder is not a package (a package would shadow the extension).

from libc.errno cimport (
    EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, EMSGSIZE, ENOBUFS, ENOMEM, ENOTSOCK, errno,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdio cimport sscanf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strerror

cdef extern from "<sys/socket.h>" nogil:
    const int AF_INET
    const int AF_INET6
    const int SOCK_CLOEXEC
    const int SOCK_DGRAM
    const int MSG_CTRUNC
    const int MSG_DONTWAIT
    const int MSG_ERRQUEUE
    const int MSG_MORE
    const int MSG_NOSIGNAL
    const int MSG_TRUNC

    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t

    struct sockaddr:
        sa_family_t sa_family

    struct iovec:
        void *iov_base
        size_t iov_len

    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags

    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type

    struct timespec:
        long tv_sec
        long tv_nsec

    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *previous)
    unsigned char *CMSG_DATA(cmsghdr *item)
    size_t CMSG_LEN(size_t size)
    size_t CMSG_SPACE(size_t size)

    int bind(int fd, const sockaddr *address, socklen_t size)
    int getsockname(int fd, sockaddr *address, socklen_t *size)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int socket(int family, int kind, int protocol)

cdef extern from "<fcntl.h>" nogil:
    const int O_CLOEXEC
    const int O_NONBLOCK
    const unsigned int SPLICE_F_NONBLOCK

    ssize_t splice(
        int source, void *source_at, int target, void *target_at, size_t size, unsigned int flags)
    ssize_t vmsplice(int fd, const iovec *pieces, size_t count, unsigned int flags)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents

    const short POLLIN
    int poll(pollfd *items, unsigned long count, int milliseconds)

cdef extern from "<sys/utsname.h>" nogil:
    struct utsname:
        char release[65]

    int uname(utsname *names)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int pipe2(int *ends, int flags)

cdef extern from "<netinet/in.h>" nogil:
    const int IPPROTO_IP
    const int IPPROTO_IPV6
    const int IPPROTO_UDP
    const int INET_ADDRSTRLEN
    const int INET6_ADDRSTRLEN
    const int IP_MTU_DISCOVER
    const int IP_PKTINFO
    const int IP_PMTUDISC_PROBE
    const int IP_RECVERR
    const int IP_RECVTOS
    const int IP_TOS
    const int IPV6_MTU_DISCOVER
    const int IPV6_PKTINFO
    const int IPV6_PMTUDISC_PROBE
    const int IPV6_RECVERR
    const int IPV6_RECVPKTINFO
    const int IPV6_RECVTCLASS
    const int IPV6_TCLASS

    struct in_addr:
        uint32_t s_addr

    struct in6_addr:
        uint8_t s6_addr[16]

    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr

    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id

    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr

    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex

    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)
    int inet_pton(int family, const char *text, void *address)

cdef extern from "<net/if.h>" nogil:
    unsigned int if_nametoindex(const char *name)

# <linux/errqueue.h> needs struct timespec to be there before it.
cdef extern from *:
    """
    #include <time.h>
    #include <linux/errqueue.h>
    #include <netinet/udp.h>
    #ifndef UDP_SEGMENT  /* Linux 4.18; older C libraries do not name them */
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO      /* Linux 5.0 */
    #define UDP_GRO 104
    #endif
    """
    const int SO_EE_ORIGIN_ICMP
    const int SO_EE_ORIGIN_ICMP6
    const int UDP_GRO
    const int UDP_SEGMENT

    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin

cdef extern from "<sys/epoll.h>" nogil:
    const int EPOLLIN
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_wait(int epoll, epoll_event *events, int most, int milliseconds)
