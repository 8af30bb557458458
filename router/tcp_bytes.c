/* See tcp_bytes.h. On its own because the kernel's tcp_info, which has the count, and the C
 * library's, which does not, cannot be included together. */
#include "router/tcp_bytes.h"

#include <linux/in.h>
#include <linux/tcp.h>
#include <sys/socket.h>

uint64_t tcp_bytes_delivered(int fd) {
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) return 0;
    return info.tcpi_bytes_acked;
}

uint64_t tcp_bytes_received(int fd) {
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) return 0;
    return info.tcpi_bytes_received;
}
