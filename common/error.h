/* One error type for everything that can fail.
 *
 * A function that can fail takes a `struct error *` as its last argument, returns false
 * (or -1, or NULL) and fills it in. Callers add context with error_wrap() as it rises;
 * the HTTP answer is rendered in one place (router/reply.c).
 *
 * An error is plain data in the caller's frame. Only `details` is owned: whoever renders
 * or drops an error calls error_clear() (or declares it with `cleanup_error`). */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct error {
    int status;        /* HTTP status that describes it; 0 = no error */
    const char *code;  /* machine code, lower_snake_case, static storage */
    char message[512]; /* for a person: what went wrong and what to do */
    int retry_after;   /* seconds after which a retry can help; 0 = not said */
    json_t *details;   /* object of further members for the body, or NULL; owned */
};

/* The codes that more than one module uses. Any other static string is as good. */
#define ERR_BAD_REQUEST         "bad_request"         /* 400 */
#define ERR_INVALID_FIELD       "invalid_field"       /* 400, details.field names it */
#define ERR_NOT_FOUND           "not_found"           /* 404 */
#define ERR_CONFLICT            "conflict"            /* 409, resourceVersion did not match */
#define ERR_ALREADY_EXISTS      "already_exists"      /* 409 */
#define ERR_INTERNAL            "internal"            /* 500 */
#define ERR_UNAVAILABLE         "unavailable"         /* 503 */
#define ERR_SANDBOX_UNREACHABLE "sandbox_unreachable" /* 502: the runtime does not answer */

/* Fills in `err` (may be NULL: the caller does not care). `code` must outlive it. */
void error_set(struct error *err, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* As error_set, for a failed system call: status 500, code "internal",
 * the text of `errnum` appended to the message. */
void error_set_errno(struct error *err, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* 400 invalid_field; details = {"field": field}; the message starts with the field. */
void error_set_field(struct error *err, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts context before the message: "context: message". Status and code stay. */
void error_wrap(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Moves `from` into `to` (may be NULL), leaving `from` empty. */
void error_move(struct error *to, struct error *from);

/* Frees what it owns and makes it "no error". NULL is fine. */
void error_clear(struct error *err);

#define cleanup_error __attribute__((cleanup(error_clear)))
