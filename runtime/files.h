/* Whole files: read with ranges or by descriptor, written atomically, deleted. */
#pragma once

#include "runtime/conn.h"

#include <sys/types.h>

void files_get(struct request *r);
/* `mask`: the umask that new files get. */
void files_put(struct request *r, mode_t mask);
void files_delete(struct request *r);
