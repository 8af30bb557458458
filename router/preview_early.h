/* An answer of a previewed application that came while the client still sends: the server can begin to answer
 * only after the request's body. It waits here until the body or the answer is complete. */
#pragma once

#include "common/bytes.h"
#include "router/request.h"

struct early_answer {
    bool waits;
    bool full;  /* `body` takes no more */
    bool ended; /* `body` is the rest of the answer */
    int status;
    int64_t length;
    struct buffer headers; /* packed_headers.h */
    struct buffer body;    /* what came of it, at most UPSTREAM_BUFFER */
};

/* Zero-initialised is ready. */
void early_answer_free(struct early_answer *early);
/* Keeps one of its headers; `early` is the context of a callback. */
void early_answer_header(void *early, const char *name, const char *value);
/* Keeps some of its body and returns how much. Less than len: it is full. */
size_t early_answer_take(struct early_answer *early, const char *data, size_t len);
/* Begins the answer that waited. */
void early_answer_begin(struct early_answer *early, struct request *r);
/* Hands on what was kept of the body; false: some is left. */
bool early_answer_flush(struct early_answer *early, struct request *r);
