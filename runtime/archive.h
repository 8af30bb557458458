/* A directory as a tar stream, both ways. */
#pragma once

#include "runtime/conn.h"

void archive_get(struct request *r);
void archive_put(struct request *r);
