/* Log lines. A line is built in a fixed buffer no longer than PIPE_BUF, so that one
 * write(2) puts it whole into a pipe even when processes share it. What does not fit is
 * cut and marked. A thread that collects writes as many whole lines at once as such a
 * buffer takes. */
#include "common/log.h"

#include "common/text.h"
#include "common/units.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES  4096
#define VALUE_MAX_BYTES 1024 /* of one message, name or value, after escaping */
#define TAIL_BYTES      32   /* kept free for the mark of a cut line and its end */

struct line {
    char text[LINE_MAX_BYTES];
    size_t len;
    bool full; /* something did not fit */
};

/* Set once before threads start, read-only after. */
static struct {
    enum log_level level;
    enum log_format format;
    int fd;
} config = {LOG_LEVEL_INFO, LOG_FORMAT_TEXT, STDERR_FILENO};

#define NUMBERS 8
static _Thread_local char numbers[NUMBERS][24];
static _Thread_local unsigned next_number;

/* The current second as text: many lines are written in one. */
static _Thread_local struct {
    time_t second;
    char text[RFC3339_MAX]; /* "2026-07-21T04:16:07Z"; "" at first */
} clock_text;

static _Thread_local struct {
    bool on;
    size_t len;
    char text[LINE_MAX_BYTES];
} collected;

void log_configure(enum log_level level, enum log_format format, int fd) {
    config.level = level;
    config.format = format;
    config.fd = fd;
}

bool log_enabled(enum log_level level) {
    return level >= config.level && level < LOG_LEVEL_OFF;
}

/* The decimal digits of n, at least `least` of them; returns their number. */
static size_t print_digits(uint64_t n, size_t least, char *out) {
    char reversed[20];
    size_t count = 0;
    for (; n > 0 || count < least; n /= 10)
        reversed[count++] = (char)('0' + n % 10);
    for (size_t i = 0; i < count; i++)
        out[i] = reversed[count - 1 - i];
    return count;
}

const char *log_int(int64_t n) {
    char *text = numbers[next_number++ % NUMBERS];
    size_t sign = n < 0;
    text[0] = '-';
    text[sign + print_digits(n < 0 ? -(uint64_t)n : (uint64_t)n, 1, text + sign)] = '\0';
    return text;
}

const char *log_milliseconds(uint64_t nanoseconds) {
    char *text = numbers[next_number++ % NUMBERS];
    uint64_t microseconds = nanoseconds / 1000 + (nanoseconds % 1000 >= 500);
    size_t n = print_digits(microseconds / 1000, 1, text);
    text[n++] = '.';
    n += print_digits(microseconds % 1000, 3, text + n);
    text[n] = '\0';
    return text;
}

/* Only log_int() and log_milliseconds() give such pointers: JSON shows these as numbers. */
static bool is_number(const char *value) {
    uintptr_t at = (uintptr_t)value;
    return at >= (uintptr_t)numbers && at < (uintptr_t)numbers + sizeof numbers;
}

static void put(struct line *line, const char *bytes, size_t n) {
    if (line->full || n > sizeof line->text - TAIL_BYTES - line->len) {
        line->full = true;
        return;
    }
    memcpy(line->text + line->len, bytes, n);
    line->len += n;
}

static void put_str(struct line *line, const char *s) {
    put(line, s, strlen(s));
}

/* One escaped character, never half of one. */
static void put_escaped(struct line *line, const char *at, size_t len, bool json) {
    char escape[8];
    unsigned char c = (unsigned char)*at;
    if (len == 0) { /* not UTF-8 */
        snprintf(escape, sizeof escape, json ? "\\ufffd" : "\\x%02x", c);
    } else if (c == '"' || c == '\\') {
        snprintf(escape, sizeof escape, "\\%c", c);
    } else if (c == '\n') {
        strcpy(escape, "\\n");
    } else if (c == '\t') {
        strcpy(escape, "\\t");
    } else if (c == '\r') {
        strcpy(escape, "\\r");
    } else if (c < 0x20 || c == 0x7f) {
        snprintf(escape, sizeof escape, json ? "\\u%04x" : "\\x%02x", c);
    } else if (len == 2 && c == 0xc2 && (unsigned char)at[1] < 0xa0) { /* C1 controls: terminals obey them */
        snprintf(escape, sizeof escape, "\\u%04x", (unsigned char)at[1]);
    } else {
        put(line, at, len);
        return;
    }
    put_str(line, escape);
}

/* Length of the UTF-8 character at the start, 0 when it is none. */
static size_t character(const char *s, size_t n) {
    for (size_t len = 1; len <= 4 && len <= n; len++) {
        if (utf8_valid(slice_make(s, len))) return len;
    }
    return 0;
}

/* Bytes at the start that stand for themselves: nearly all text is only that. */
static size_t plain_run(const char *s, size_t n) {
    /* A bit for each of the first 128 characters: those from the space to '~' but '"' and '\\'. */
    static const uint32_t bits[4] = {0, 0xfffffffb, 0xefffffff, 0x7fffffff};
    size_t i = 0;
    for (; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 128 || !(bits[c / 32] >> (c % 32) & 1)) break;
    }
    return i;
}

/* At most VALUE_MAX_BYTES and an ellipsis, so that the message always fits a line. */
static void put_text(struct line *line, const char *s, bool json) {
    size_t start = line->len;
    size_t n = strnlen(s, VALUE_MAX_BYTES + 4); /* enough for the last whole character */
    size_t plain = plain_run(s, n < VALUE_MAX_BYTES ? n : VALUE_MAX_BYTES);
    put(line, s, plain);
    for (size_t i = plain; i < n && !line->full;) {
        size_t before = line->len;
        size_t len = character(s + i, n - i);
        put_escaped(line, s + i, len, json);
        if (line->len - start > VALUE_MAX_BYTES) {
            line->len = before;
            put_str(line, "...");
            return;
        }
        i += len ? len : 1;
    }
}

static bool needs_quotes(const char *s) {
    if (*s == '\0') return true;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\') return true;
    }
    return false;
}

static void put_quoted(struct line *line, const char *s, bool json) {
    put_str(line, "\"");
    put_text(line, s, json);
    put_str(line, "\"");
}

static const char *text_of_second(time_t second) {
    if (clock_text.second != second || !clock_text.text[0]) {
        rfc3339_format(second, clock_text.text);
        clock_text.second = second;
    }
    return clock_text.text;
}

static void start_text(struct line *line, enum log_level level, const char *message) {
    static const char *const names[] = {"debug", "info ", "warn ", "error"};
    put_str(line, text_of_second(time(NULL)));
    put_str(line, " ");
    put_str(line, names[level]);
    put_str(line, " ");
    put_text(line, message, false);
}

static void start_json(struct line *line, enum log_level level, const char *message) {
    static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    const char *second = text_of_second(t.tv_sec);
    char nanoseconds[10];
    print_digits((uint64_t)t.tv_nsec, 9, nanoseconds);
    put_str(line, "{\"time\":\"");
    put(line, second, strlen(second) - 1); /* without the Z; nine digits, so that texts sort as times do */
    put_str(line, ".");
    put(line, nanoseconds, 9);
    put_str(line, "Z\",\"level\":\"");
    put_str(line, names[level]);
    put_str(line, "\",\"msg\":");
    put_quoted(line, message, true);
}

static void put_field(struct line *line, const char *name, const char *value, bool json) {
    if (json) {
        put_str(line, ",");
        put_quoted(line, name, true);
        put_str(line, ":");
        if (is_number(value))
            put_str(line, value);
        else
            put_quoted(line, value, true);
        return;
    }
    put_str(line, " ");
    put_text(line, name, false);
    put_str(line, "=");
    if (needs_quotes(value))
        put_quoted(line, value, false);
    else
        put_text(line, value, false);
}

/* A log that cannot be written must not stop the program; there is nowhere to say so. */
static void emit(const char *bytes, size_t n) {
    while (n > 0) {
        ssize_t done = write(config.fd, bytes, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return;
        bytes += done;
        n -= (size_t)done;
    }
}

void log_collect(bool on) {
    log_flush();
    collected.on = on;
}

void log_flush(void) {
    if (collected.len == 0) return;
    int saved = errno;
    emit(collected.text, collected.len);
    collected.len = 0;
    errno = saved;
}

/* A line of this thread, behind those that it has collected. */
static void emit_line(enum log_level level, const char *bytes, size_t n) {
    if (n > sizeof collected.text - collected.len) log_flush();
    if (!collected.on) {
        emit(bytes, n);
        return;
    }
    memcpy(collected.text + collected.len, bytes, n);
    collected.len += n;
    if (level >= LOG_LEVEL_WARN) log_flush();
}

void log_write(enum log_level level, const char *message, ...) {
    if (!log_enabled(level)) return;
    int saved = errno; /* callers log between a failure and its report */
    bool json = config.format == LOG_FORMAT_JSON;
    struct line line;
    line.len = 0;
    line.full = false;
    if (json)
        start_json(&line, level, message);
    else
        start_text(&line, level, message);
    va_list args;
    va_start(args, message);
    for (const char *name; (name = va_arg(args, const char *)) != NULL && !line.full;) {
        const char *value = va_arg(args, const char *);
        size_t whole = line.len;
        put_field(&line, name, value ? value : "", json);
        if (line.full) line.len = whole; /* a field is whole or absent */
    }
    va_end(args);
    bool cut = line.full;
    line.full = false;
    /* TAIL_BYTES have been kept free for this. */
    const char *end = json ? (cut ? ",\"cut\":true}\n" : "}\n") : (cut ? " cut=true\n" : "\n");
    memcpy(line.text + line.len, end, strlen(end));
    line.len += strlen(end);
    emit_line(level, line.text, line.len);
    errno = saved;
}
