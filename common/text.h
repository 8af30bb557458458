/* Text encodings: UTF-8 checks that never split a character, base64, hex, percent. Pure.
 * What appends to a buffer returns false, with nothing appended, when the buffer's limit
 * would be passed: that cannot happen for a buffer without a limit. */
#pragma once

#include "common/bytes.h"

bool utf8_valid(struct slice s);
/* Bytes at the end of `s` that are the start of a character not yet complete (0..3). */
size_t utf8_incomplete_tail(struct slice s);
/* Appends `s` with every invalid sequence replaced by U+FFFD. */
bool utf8_repair(struct slice s, struct buffer *out);

bool base64_encode(struct slice in, struct buffer *out);       /* padded, RFC 4648 section 4 */
bool base64_decode(struct slice in, struct buffer *out);       /* strict, padding required */
bool base64url_encode(struct slice in, struct buffer *out);    /* no padding, section 5 */
bool base64url_decode(struct slice in, struct buffer *out);    /* strict: no padding, no spare bits */
void hex_encode(const unsigned char *in, size_t n, char *out); /* lower case; out has 2n+1 bytes */
/* Appends `bytes` as a JSON string, with what is not UTF-8 as U+FFFD. */
void json_text_string(struct buffer *out, struct slice bytes);
/* The same without the quotes, for text that is sent in pieces (not cut within a character). */
void json_text_escaped(struct buffer *out, struct slice bytes);
/* "%41" -> "A". False: a bad escape or a decoded NUL. */
bool percent_decode(struct slice in, struct buffer *out);
/* Encodes everything but unreserved characters and those in `keep`. */
bool percent_encode(struct slice in, const char *keep, struct buffer *out);

/* An RFC 1123 label: 1 to 63 of [a-z0-9-], alphanumeric at both ends. */
bool dns_label_valid(struct slice s);

/* FNV-1a, for tables in memory: whoever chooses the texts can make them collide. */
uint64_t text_hash(struct slice s);
