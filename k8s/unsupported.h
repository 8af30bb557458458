/* The way into a sandbox where there is none: every operation is refused. */
#pragma once

#include "backend/access.h"

struct access *unsupported_access(void); /* static storage */
