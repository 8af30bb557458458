/* HTTP/1.1 message heads and bodies (RFC 9110, RFC 9112): a strict codec for peers that are
 * not trusted. Pure functions on bytes, fuzzed. Used by the runtime for requests and by
 * the Router for the answers of runtimes and previewed applications. (lessons S18, S19) */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#define HTTP1_MAX_HEAD    (64 * 1024)
#define HTTP1_MAX_HEADERS 128

struct http1_header {
    struct slice name;
    struct slice value; /* trimmed */
};

enum http1_framing {
    HTTP1_BODY_NONE,
    HTTP1_BODY_LENGTH, /* content_length bytes */
    HTTP1_BODY_CHUNKED,
    HTTP1_BODY_UNTIL_CLOSE /* answers only */
};

/* A parsed head. All slices point into the bytes it was parsed from. */
struct http1_head {
    struct slice method, target; /* requests */
    int status;                  /* answers */
    struct slice reason;         /* answers */
    int minor;                   /* HTTP/1.minor, 0 or 1 */
    struct http1_header headers[HTTP1_MAX_HEADERS];
    size_t header_count;
    enum http1_framing framing;
    uint64_t content_length; /* as sent, also when no body follows (HEAD, 304); 0 when not sent */
    bool keep_alive;         /* version and Connection allow another message after this one */
    bool upgrade;            /* Connection: upgrade was sent */
};

/* Return the head's length in bytes when it is complete (> 0), 0 when more bytes are
 * needed, -1 when it is malformed or above HTTP1_MAX_HEAD (err says why). Refused: bare LF,
 * obs-fold, space before the colon, characters outside RFC 9110 tokens in names, controls
 * in values, two Content-Length or Transfer-Encoding, both together, any transfer coding
 * but one "chunked", a transfer coding in HTTP/1.0, two Host, targets other than "/..." and
 * "*". Requests: 400 bad_request, 431 header_too_large, 505 version_not_supported.
 * Answers: 502 bad_answer. */
ssize_t http1_parse_request(struct slice bytes, struct http1_head *head, struct error *err);
/* The same for a server that anybody may talk to: also takes targets in absolute form, as RFC 9112 3.2.2
 * demands, and tells a transfer coding that it does not have (501 unsupported_transfer_coding) from a
 * malformed request. What a parser behind this one may see in another way is refused: blanks behind the value
 * of Content-Length or Transfer-Encoding. */
ssize_t http1_parse_client_request(struct slice bytes, struct http1_head *head, struct error *err);
/* `request_method` decides whether a body follows (HEAD). 1xx heads are returned as they are. */
ssize_t http1_parse_response(struct slice bytes, const char *request_method, struct http1_head *head,
                             struct error *err);

/* The first header of that name (ASCII case ignored), or NULL. */
const struct http1_header *http1_find(const struct http1_head *head, const char *name);

bool http1_token_valid(struct slice s); /* RFC 9110 5.6.2 */
bool http1_value_valid(struct slice s); /* no CTL but HTAB */

/* Decoder of the chunked coding. Zero-initialised is ready. */
struct http1_chunked {
    int state;
    uint64_t left;
    size_t line; /* bytes of the current size line or trailers, bounded */
};
#define HTTP1_MAX_CHUNK_LINE (4 * 1024)  /* a size and its extensions, which are ignored */
#define HTTP1_MAX_TRAILERS   (16 * 1024) /* trailers are checked for their end only, and dropped */
/* Takes some of `in` (*consumed says how much) and gives a view of body bytes in `out`
 * (may be empty). Returns 1 when the body has ended, 0 to go on (with what is left of `in`,
 * then with more), -1 when malformed. Nothing after the end is consumed. */
int http1_chunked_decode(struct http1_chunked *d, struct slice in, size_t *consumed, struct slice *out);
