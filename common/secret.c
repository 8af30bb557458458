/* Random bytes from the kernel; SHA-256 and constant-time comparison from OpenSSL. */
/* The plain functions for SHA-256: those that OpenSSL 3 recommends look the algorithm up by its name at
 * each call, which costs more than the hash of a key. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "common/secret.h"

#include "common/text.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/random.h>

void random_bytes(void *out, size_t n) {
    unsigned char *p = out;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) abort(); /* going on would make guessable secrets */
        p += got;
        n -= (size_t)got;
    }
}

void random_hex(char *out, size_t nbytes) {
    unsigned char chunk[64];
    out[0] = '\0';
    while (nbytes > 0) {
        size_t n = nbytes < sizeof chunk ? nbytes : sizeof chunk;
        random_bytes(chunk, n);
        hex_encode(chunk, n, out);
        out += 2 * n;
        nbytes -= n;
    }
    OPENSSL_cleanse(chunk, sizeof chunk);
}

void sha256_bytes(struct slice in, unsigned char out[SHA256_BYTES]) {
    SHA256_CTX ctx;
    if (!SHA256_Init(&ctx) || !SHA256_Update(&ctx, in.len ? in.ptr : "", in.len) || !SHA256_Final(out, &ctx))
        abort();
    OPENSSL_cleanse(&ctx, sizeof ctx); /* it holds the end of what was hashed */
}

void sha256_hex(struct slice in, char out[SHA256_HEX_LEN + 1]) {
    unsigned char digest[SHA256_BYTES];
    sha256_bytes(in, digest);
    hex_encode(digest, sizeof digest, out);
}

bool secret_equal(struct slice a, struct slice b) {
    return a.len == b.len && (a.len == 0 || CRYPTO_memcmp(a.ptr, b.ptr, a.len) == 0);
}

void api_key_generate(char out[API_KEY_LEN + 1]) {
    unsigned char raw[32];
    random_bytes(raw, sizeof raw);
    cleanup_buffer struct buffer text = {0};
    buffer_append_str(&text, "atk_");
    base64url_encode(slice_make((const char *)raw, sizeof raw), &text);
    if (text.len != API_KEY_LEN) abort();
    memcpy(out, text.data, API_KEY_LEN + 1);
    OPENSSL_cleanse(raw, sizeof raw);
    OPENSSL_cleanse(text.data, text.len);
}

void uuid_generate(char out[UUID_LEN + 1]) {
    unsigned char raw[16];
    random_bytes(raw, sizeof raw);
    raw[6] = (unsigned char)((raw[6] & 0x0f) | 0x40); /* version 4 */
    raw[8] = (unsigned char)((raw[8] & 0x3f) | 0x80); /* variant 10 */
    static const size_t groups[] = {4, 2, 2, 2, 6};
    size_t from = 0;
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        if (i > 0) *out++ = '-';
        hex_encode(raw + from, groups[i], out);
        out += 2 * groups[i];
        from += groups[i];
    }
}
