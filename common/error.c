/* Filling, wrapping and moving of errors. A message that is too long is cut at a whole
 * UTF-8 character, so that it can always be put into JSON. */
#include "common/error.h"

#include "common/text.h"

#include <stdarg.h>
#include <stdio.h>

/* vsnprintf cuts anywhere. Other bytes that are not UTF-8 are for the renderer to repair. */
static void trim_cut_character(char *text) {
    size_t len = strlen(text);
    text[len - utf8_incomplete_tail(slice_make(text, len))] = '\0';
}

static void set_message(struct error *err, int status, const char *code, const char *fmt, va_list args)
    __attribute__((format(printf, 4, 0)));

static void set_message(struct error *err, int status, const char *code, const char *fmt, va_list args) {
    /* Arguments may point into the old message. */
    char text[sizeof err->message];
    vsnprintf(text, sizeof text, fmt, args);
    trim_cut_character(text);
    error_clear(err);
    err->status = status;
    err->code = code;
    memcpy(err->message, text, sizeof text);
}

void error_set(struct error *err, int status, const char *code, const char *fmt, ...) {
    if (!err) return;
    va_list args;
    va_start(args, fmt);
    set_message(err, status, code, fmt, args);
    va_end(args);
}

static void append_message(struct error *err, const char *separator, const char *text) {
    size_t len = strlen(err->message);
    snprintf(err->message + len, sizeof err->message - len, "%s%s", separator, text);
    trim_cut_character(err->message);
}

void error_set_errno(struct error *err, int errnum, const char *fmt, ...) {
    if (!err) return;
    va_list args;
    va_start(args, fmt);
    set_message(err, 500, ERR_INTERNAL, fmt, args);
    va_end(args);
    char text[128];
    append_message(err, ": ", strerror_r(errnum, text, sizeof text));
}

void error_set_field(struct error *err, const char *field, const char *fmt, ...) {
    if (!err) return;
    va_list args;
    va_start(args, fmt);
    set_message(err, 400, ERR_INVALID_FIELD, fmt, args);
    va_end(args);
    err->details = json_pack("{s:s}", "field", field);
    error_wrap(err, "%s", field);
}

void error_wrap(struct error *err, const char *fmt, ...) {
    if (!err) return;
    char text[sizeof err->message];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    memcpy(err->message, text, sizeof text);
    append_message(err, ": ", old);
}

void error_move(struct error *to, struct error *from) {
    if (!from || to == from) return;
    if (!to) {
        error_clear(from);
        return;
    }
    error_clear(to);
    *to = *from;
    *from = (struct error){0};
}

void error_clear(struct error *err) {
    if (!err) return;
    json_decref(err->details);
    *err = (struct error){0};
}
