/* How many bytes a TCP connection has received, and how many of ours its peer has, as the kernel counts
 * them. */
#pragma once

#include <stdint.h>

/* 0 when it cannot be told. */
uint64_t tcp_bytes_received(int fd);
uint64_t tcp_bytes_delivered(int fd);
