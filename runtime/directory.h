/* Facts about paths and directories: /stat, /dir, /mkdir. */
#pragma once

#include "runtime/conn.h"

void directory_stat(struct request *r);
void directory_list(struct request *r);
void directory_make(struct request *r);
