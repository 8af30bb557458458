/* UTF-8, base64, hex and percent encoding. Everything works on bytes and never depends
 * on the locale. */
#include "common/text.h"

/* Length of the well-formed character at p (Unicode 15, table 3-7), or 0. Then *part is the
 * length of the longest start of a character there (at least 1), and *cut says whether that
 * start reaches the end of the input, so that more bytes could complete it. */
static size_t utf8_character(const unsigned char *p, size_t n, size_t *part, bool *cut) {
    unsigned char low = 0x80;
    unsigned char high = 0xbf;
    size_t need;
    *part = 1;
    *cut = false;
    if (p[0] < 0x80) return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        need = 2;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        need = 3;
        if (p[0] == 0xe0) low = 0xa0;  /* no overlong forms */
        if (p[0] == 0xed) high = 0x9f; /* no surrogates */
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        need = 4;
        if (p[0] == 0xf0) low = 0x90;
        if (p[0] == 0xf4) high = 0x8f; /* nothing above U+10FFFF */
    } else {
        return 0;
    }
    for (size_t i = 1; i < need; i++) {
        *part = i;
        if (i == n) {
            *cut = true;
            return 0;
        }
        if (p[i] < low || p[i] > high) return 0;
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

/* Bytes of plain ASCII at the start: almost all text is only that. */
static size_t ascii_run(const unsigned char *p, size_t n) {
    size_t i = 0;
    for (; n - i >= 8; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
        if (word & UINT64_C(0x8080808080808080)) break;
    }
    while (i < n && p[i] < 0x80) {
        i++;
    }
    return i;
}

bool utf8_valid(struct slice s) {
    const unsigned char *p = (const unsigned char *)s.ptr;
    size_t part;
    bool cut;
    for (size_t i = 0; i < s.len;) {
        i += ascii_run(p + i, s.len - i);
        if (i == s.len) break;
        size_t len = utf8_character(p + i, s.len - i, &part, &cut);
        if (len == 0) return false;
        i += len;
    }
    return true;
}

size_t utf8_incomplete_tail(struct slice s) {
    const unsigned char *p = (const unsigned char *)s.ptr;
    for (size_t back = 1; back <= 3 && back <= s.len; back++) {
        const unsigned char *start = p + s.len - back;
        if (start[0] < 0x80) return 0;
        if (start[0] < 0xc0) continue; /* a continuation: its character starts before */
        size_t part;
        bool cut;
        size_t len = utf8_character(start, back, &part, &cut);
        return len == 0 && cut ? back : 0;
    }
    return 0;
}

bool utf8_repair(struct slice s, struct buffer *out) {
    const unsigned char *p = (const unsigned char *)s.ptr;
    size_t before = out->len;
    for (size_t i = 0; i < s.len;) {
        size_t run = i;
        size_t part = 0;
        bool cut;
        while (run < s.len) {
            run += ascii_run(p + run, s.len - run);
            if (run == s.len) break;
            size_t len = utf8_character(p + run, s.len - run, &part, &cut);
            if (len == 0) break;
            run += len;
        }
        bool ok = buffer_append(out, p + i, run - i);
        if (ok && run < s.len) {
            ok = buffer_append(out, "\xef\xbf\xbd", 3);
            run += part;
        }
        if (!ok) {
            out->len = before;
            if (out->data) out->data[before] = '\0';
            return false;
        }
        i = run;
    }
    return true;
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char base64url_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static bool base64_encode_with(const char *digits, bool padded, struct slice in, struct buffer *out) {
    if (in.len > SIZE_MAX / 4) return false; /* longer than memory */
    const unsigned char *p = (const unsigned char *)in.ptr;
    size_t rest = in.len % 3;
    size_t len = in.len / 3 * 4 + (rest == 0 ? 0 : padded ? 4 : rest + 1);
    char *to = buffer_reserve(out, len);
    if (!to) return false;
    size_t i = 0;
    for (; in.len - i >= 3; i += 3) {
        uint32_t word = (uint32_t)p[i] << 16 | (uint32_t)p[i + 1] << 8 | p[i + 2];
        *to++ = digits[word >> 18];
        *to++ = digits[word >> 12 & 63];
        *to++ = digits[word >> 6 & 63];
        *to++ = digits[word & 63];
    }
    if (rest > 0) {
        uint32_t word = (uint32_t)p[i] << 16 | (rest == 2 ? (uint32_t)p[i + 1] << 8 : 0);
        *to++ = digits[word >> 18];
        *to++ = digits[word >> 12 & 63];
        if (rest == 2)
            *to++ = digits[word >> 6 & 63];
        else if (padded)
            *to++ = '=';
        if (padded) *to++ = '=';
    }
    buffer_commit(out, len);
    return true;
}

bool base64_encode(struct slice in, struct buffer *out) {
    return base64_encode_with(base64_digits, true, in, out);
}

bool base64url_encode(struct slice in, struct buffer *out) {
    return base64_encode_with(base64url_digits, false, in, out);
}

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+') return 62;
    if (c == '/') return 63;
    return -1;
}

bool base64_decode(struct slice in, struct buffer *out) {
    if (in.len % 4 != 0) return false;
    if (in.len == 0) return true;
    size_t pad = in.ptr[in.len - 1] != '=' ? 0 : in.ptr[in.len - 2] != '=' ? 1 : 2;
    size_t len = in.len / 4 * 3 - pad;
    char *to = buffer_reserve(out, len);
    if (!to) return false;
    size_t done = 0;
    for (size_t i = 0; i < in.len; i += 4) {
        uint32_t word = 0;
        for (size_t k = 0; k < 4; k++) {
            int digit = i + k >= in.len - pad ? 0 : base64_digit(in.ptr[i + k]);
            if (digit < 0) return false;
            word = word << 6 | (uint32_t)digit;
        }
        /* Bits that belong to no byte must be zero: one text for each value. */
        if (i + 4 == in.len && (word & ((1U << 8 * pad) - 1)) != 0) return false;
        for (size_t k = 0; k < 3 && done < len; k++) {
            to[done++] = (char)(unsigned char)(word >> (16 - 8 * k));
        }
    }
    buffer_commit(out, len);
    return true;
}

bool base64url_decode(struct slice in, struct buffer *out) {
    size_t rest = in.len % 4;
    if (rest == 1) return false;
    cleanup_buffer struct buffer padded = {0};
    char *to = buffer_reserve(&padded, in.len + 4);
    size_t n = 0;
    for (size_t i = 0; i < in.len; i++) {
        char c = in.ptr[i];
        if (c == '+' || c == '/' || c == '=') return false;
        to[n++] = c;
        if (c == '-') to[n - 1] = '+';
        if (c == '_') to[n - 1] = '/';
    }
    for (; rest != 0 && n % 4 != 0; n++)
        to[n] = '=';
    return base64_decode(slice_make(to, n), out);
}

void hex_encode(const unsigned char *in, size_t n, char *out) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * n] = '\0';
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool percent_decode(struct slice in, struct buffer *out) {
    char *to = buffer_reserve(out, in.len); /* never longer than the input */
    if (!to) return false;
    size_t len = 0;
    for (size_t i = 0; i < in.len; i++) {
        char c = in.ptr[i];
        if (c == '%') {
            if (in.len - i < 3) return false;
            int high = hex_digit(in.ptr[i + 1]);
            int low = hex_digit(in.ptr[i + 2]);
            if (high < 0 || low < 0) return false;
            c = (char)(unsigned char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0') return false;
        to[len++] = c;
    }
    buffer_commit(out, len);
    return true;
}

static bool unreserved(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

bool percent_encode(struct slice in, const char *keep, struct buffer *out) {
    static const char digits[] = "0123456789ABCDEF";
    size_t len = 0;
    for (size_t i = 0; i < in.len; i++) {
        bool plain = unreserved(in.ptr[i]) || (in.ptr[i] && keep && strchr(keep, in.ptr[i]));
        len += plain ? 1 : 3;
    }
    char *to = buffer_reserve(out, len);
    if (!to) return false;
    for (size_t i = 0; i < in.len; i++) {
        unsigned char c = (unsigned char)in.ptr[i];
        if (unreserved(in.ptr[i]) || (c && keep && strchr(keep, in.ptr[i]))) {
            *to++ = in.ptr[i];
        } else {
            *to++ = '%';
            *to++ = digits[c >> 4];
            *to++ = digits[c & 15];
        }
    }
    buffer_commit(out, len);
    return true;
}

bool dns_label_valid(struct slice s) {
    if (s.len < 1 || s.len > 63) return false;
    if (s.ptr[0] == '-' || s.ptr[s.len - 1] == '-') return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) return false;
    }
    return true;
}

uint64_t text_hash(struct slice s) {
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < s.len; i++)
        h = (h ^ (unsigned char)s.ptr[i]) * UINT64_C(1099511628211);
    return h;
}

static void escape_json(struct buffer *out, struct slice valid) {
    size_t start = 0;
    for (size_t i = 0; i < valid.len; i++) {
        unsigned char c = (unsigned char)valid.ptr[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) continue;
        buffer_append(out, valid.ptr + start, i - start);
        start = i + 1;
        switch (c) {
        case '"': buffer_append_str(out, "\\\""); break;
        case '\\': buffer_append_str(out, "\\\\"); break;
        case '\n': buffer_append_str(out, "\\n"); break;
        case '\r': buffer_append_str(out, "\\r"); break;
        case '\t': buffer_append_str(out, "\\t"); break;
        default: buffer_printf(out, "\\u%04x", c);
        }
    }
    buffer_append(out, valid.ptr + start, valid.len - start);
}

void json_text_escaped(struct buffer *out, struct slice bytes) {
    if (bytes.len == 0) return;
    if (utf8_valid(bytes)) {
        escape_json(out, bytes);
        return;
    }
    cleanup_buffer struct buffer repaired = {0};
    utf8_repair(bytes, &repaired);
    escape_json(out, buffer_slice(&repaired));
}

void json_text_string(struct buffer *out, struct slice bytes) {
    buffer_append_char(out, '"');
    json_text_escaped(out, bytes);
    buffer_append_char(out, '"');
}
