/* What a template wants done in a new pod before its main container starts, as commands of init containers
 * (controller.md 5.5): files and initScripts. Pure. */
#pragma once

#include <jansson.h>

/* argv, a new reference; NULL when there is nothing to do. Contents travel in arguments of at most 96 KiB
 * each, so their sum is bounded by the size of an object only (W37). */
json_t *files_command(const json_t *files);
json_t *scripts_command(const json_t *scripts);
