/* The HTTP/1.1 request that asks a kube-apiserver for a WebSocket, and what its answer means. Pure:
 * nothing that follows an answer other than a correct 101 is ever passed on (lessons S2). */
#pragma once

#include "common/http1.h"

#define ERR_KUBERNETES_UNAUTHORIZED "kubernetes_unauthorized" /* 503: the credentials must be read anew */

#define WEBSOCKET_KEY_LEN 24 /* base64 of 16 random bytes */

/* "a, b" of `protocols` (NULL-terminated) is what is offered. `authorization` may be NULL. False:
 * a part does not belong into a head (500). */
bool upgrade_request(const char *host, uint16_t port, struct slice target, const char *authorization,
                     const char *const *protocols, const char *key, struct buffer *out, struct error *err);

/* Sec-WebSocket-Accept for a key (RFC 6455 4.2.2). */
void upgrade_accept(const char *key, char out[32]);

/* A 101 that keeps to RFC 6455 4.1 and chose one of `protocols`: its index. -1: 502 bad answer. */
int upgrade_check(const struct http1_head *head, const char *key, const char *const *protocols,
                  struct error *err);

/* What a refusal means, with the apiserver's own message when the body is a Status. `pod` names the
 * pod. 404 sandbox_not_found, 403 kubernetes_forbidden, 503 unavailable or
 * kubernetes_unauthorized (with retry_after), 502 sandbox_unreachable. */
void upgrade_refusal(int status, struct slice body, const char *pod, struct error *err);
/* Whether it may be the protocol that was refused: a server or proxy that knows no v5. */
bool upgrade_refuses_protocol(int status, struct slice body);
