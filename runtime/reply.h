/* Answers, and the JSON text in them. */
#pragma once

#include "common/text.h"
#include "runtime/conn.h"

/* {"code":…,"error":"…","reason":"…"} and a newline. */
void json_text_error(struct buffer *out, const struct error *err);

/* An answer with Connection: close. `headers` is "" or full lines that end in CRLF. */
bool reply(struct conn *c, int status, const char *content_type, const char *headers, struct slice body);
bool reply_json(struct conn *c, int status, const struct buffer *body);
bool reply_error(struct conn *c, const struct error *err);
/* The head of an answer with these headers; the body follows. */
bool reply_head(struct conn *c, int status, const char *headers);
const char *reply_reason(int status);
