/* GET /pty: a shell on a terminal, over WebSocket (controller.md 18.6). */
#pragma once

#include "runtime/conn.h"

void terminal_serve(struct request *r, int registry);
