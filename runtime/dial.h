/* /dial: a way to a port of this sandbox. */
#pragma once

#include "runtime/conn.h"

void dial(struct request *r);
