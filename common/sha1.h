/* SHA-1, for the WebSocket handshake and for nothing else: it keeps no secret there. The static runtime
 * has no OpenSSL. (RFC 3174) */
#pragma once

#include "common/bytes.h"

#define SHA1_LEN 20

void sha1(struct slice in, unsigned char out[SHA1_LEN]);
