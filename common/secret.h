/* Random bytes, SHA-256 and comparison of secrets in constant time (OpenSSL). */
#pragma once

#include "common/bytes.h"

#define SHA256_BYTES   32
#define SHA256_HEX_LEN 64

void random_bytes(void *out, size_t n);    /* aborts if the kernel has none */
void random_hex(char *out, size_t nbytes); /* out has 2*nbytes+1 bytes */
void sha256_bytes(struct slice in, unsigned char out[SHA256_BYTES]);
void sha256_hex(struct slice in, char out[SHA256_HEX_LEN + 1]);
bool secret_equal(struct slice a, struct slice b); /* time depends on lengths only */
/* "atk_" and 32 random bytes in base64url; 47 characters and a NUL. http-api.md 3.3 */
#define API_KEY_LEN 47
void api_key_generate(char out[API_KEY_LEN + 1]);
/* RFC 9562 version 4, for object UIDs. */
#define UUID_LEN 36
void uuid_generate(char out[UUID_LEN + 1]);
