/* The system calls that a sandbox may not make: what could widen its view of the kernel or
 * change the machine. All others pass, so that ordinary programs run. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

/* Appends the filter as BPF (struct sock_filter[], as bubblewrap's --seccomp reads it). */
bool syscall_filter_build(struct buffer *out, struct error *err);
