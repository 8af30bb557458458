/* The requests about commands: /exec/stream, /exec/{id}, /exec, /invoke. Each handler
 * answers its request; a command's supervisor then runs in the same process. */
#pragma once

#include "runtime/conn.h"

void exec_stream(struct request *r, int registry);
void exec_reference(struct request *r, int registry, bool invoke);
/* GET and DELETE /exec/{id}; `id` is the rest of the path. */
void exec_by_id(struct request *r, int registry, struct slice id);
void exec_cancel_invoke(struct request *r, int registry, struct slice id);
