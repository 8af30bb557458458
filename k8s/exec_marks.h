/* The marks that the command scripts put around a command's output (k8s/exec_scripts.h): a first line on
 * stdout, and at the end of each stream a NUL, the nonce, and how it ended. The nonce is random and told to
 * nobody but the script, so output cannot hold it by accident. Pure. */
#pragma once

#include "common/bytes.h"

#define EXEC_NONCE_LEN 32
#define EXEC_MARK_MAX  256

struct exec_marks {
    char nonce[EXEC_NONCE_LEN + 1];
    bool wants_head, ended;
    char head[EXEC_MARK_MAX]; /* the first line, once wants_head is false */
    char tail[EXEC_MARK_MAX]; /* what follows the nonce, once `ended` */
    struct buffer held;       /* may be the beginning of a mark */
};

void exec_marks_init(struct exec_marks *m, const char *nonce, bool wants_head);
void exec_marks_free(struct exec_marks *m);
/* Appends what of `in` is output to `out`; nothing after the end is. False: the first line is none. */
bool exec_marks_feed(struct exec_marks *m, struct slice in, struct buffer *out);
/* The stream ended without its mark: what was held is output. */
void exec_marks_flush(struct exec_marks *m, struct buffer *out);
