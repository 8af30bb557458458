/* Parameters of the scripts (k8s/exec_scripts.h): one line each. What could end a line or mean something
 * to printf's %b is written \0ooo, and so is every byte above 126, which some shells keep for themselves.
 * Pure. */
#pragma once

#include "common/bytes.h"

void exec_param(struct buffer *out, const char *value);
void exec_param_number(struct buffer *out, long long value);
