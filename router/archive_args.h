/* The query of /sandboxes/{id}/archive (http-api.md 2.9). */
#pragma once

#include "router/archive_pack.h"
#include "router/request.h"

#define ARCHIVE_MAX_BYTES (5ull << 30) /* of an archive that is sent */

/* ?path=, default the workspace; only it and what is below it. Appends to `path`. */
bool archive_path(struct request *r, struct buffer *path, struct error *err);

/* ?format=; *given says whether there was one. */
bool archive_format_query(struct request *r, enum archive_format *format, bool *given, struct error *err);

const char *archive_content_type(enum archive_format format);
const char *archive_extension(enum archive_format format); /* ".zip" */
/* The format that a Content-Type names; false: none. */
bool archive_format_of_type(const char *content_type, enum archive_format *format);
