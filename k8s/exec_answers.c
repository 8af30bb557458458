#include "k8s/exec_answers.h"

#include "common/json.h"
#include "common/secret.h"
#include "common/text.h"

#include <stdio.h>
#include <sys/stat.h>

#define ERR_BAD_ANSWER "sandbox_bad_answer"

/* ---- Refusals ---- */

static const struct refusal {
    const char *said, *code, *text;
    int status;
} refusals[] = {
    {"not_a_file", "not_a_file", "is not a regular file", 400},
    {"not_a_directory", "not_a_directory", "is not a directory", 400},
    {"not_a_directory_409", "not_a_directory", "is there and not a directory", 409},
    {"permission_denied", "permission_denied", "may not be used by the sandbox's user", 403},
    {"bad_path", "bad_path", "leads out of the directory that it must be in", 400},
    {"exec_not_found", "exec_not_found", NULL, 404},
    {"exec_id_reused", "exec_id_reused", NULL, 409},
    {"too_many_execs", "too_many_execs", NULL, 429},
    {"exec_keep_unsupported", "exec_keep_unsupported", NULL, 501},
    {"no_tar", "archive_unsupported", NULL, 501},
    {"cut", "sandbox_unreachable", "did not come whole", 502},
    {"kept_less", "disk_full", "was not kept whole by its file system", 507},
};

static const char *plain_text(const char *said) {
    if (strcmp(said, "exec_not_found") == 0) return "no command with this id is known";
    if (strcmp(said, "exec_id_reused") == 0) return "this id was used for another command";
    if (strcmp(said, "too_many_execs") == 0)
        return "64 commands run in this sandbox, or their outcomes are kept; retry when some are old";
    if (strcmp(said, "exec_keep_unsupported") == 0)
        return "commands that outlive their request need a directory that the sandbox's user can write "
               "(/tmp, "
               "/var/tmp or /dev/shm), or an image with agenttier-runtime";
    return "the sandbox's image has no tar, which archives need without agenttier-runtime";
}

void exec_refusal(const char *code, const char *path, struct error *err) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        if (strcmp(code, r->said) != 0) continue;
        if (r->text)
            error_set(err, r->status, r->code, "%.300s %s", path ? path : "it", r->text);
        else
            error_set(err, r->status, r->code, "%s", plain_text(r->said));
        return;
    }
    error_set(err, 502, ERR_BAD_ANSWER, "the sandbox gave an answer that makes no sense");
}

static bool has(struct slice words, const char *phrase) {
    return words.ptr && memmem(words.ptr, words.len, phrase, strlen(phrase));
}

void exec_complaint(struct slice words, int exit_code, const char *path, struct error *err) {
    const char *p = path ? path : "it";
    if (has(words, "No space left") || has(words, "Disk quota exceeded"))
        error_set(err, 507, "disk_full", "no space left for %.300s; delete files and try again", p);
    else if (has(words, "Read-only file system"))
        error_set(err, 403, "permission_denied", "%.300s is on a read-only file system", p);
    else if (has(words, "ermission denied") || has(words, "not permitted") ||
             has(words, "Device or resource busy") || has(words, "symbolic links"))
        error_set(err, 403, "permission_denied", "%.300s: permission denied", p);
    else if (has(words, "not empty"))
        error_set(err, 409, "directory_not_empty", "%.300s is not empty; use recursive=true", p);
    else if (has(words, "Not a directory") || has(words, "File exists"))
        error_set(err, 400, "not_a_directory", "%.300s: a part of the path is not a directory", p);
    else if (has(words, "name too long"))
        error_set(err, 400, "bad_path", "%.300s: a name in the path is too long", p);
    else if (has(words, "No such file") || has(words, "nonexistent directory"))
        error_set(err, 404, "file_not_found", "%.300s: no such file or directory", p);
    else {
        char text[300];
        cleanup_buffer struct buffer repaired = {0};
        if (words.len > 200) words = slice_make(words.ptr + words.len - 200, 200);
        utf8_repair(words, &repaired);
        snprintf(text, sizeof text, "%.*s", (int)(repaired.len < 250 ? repaired.len : 250),
                 repaired.data ? repaired.data : "");
        for (char *c = text; *c; c++)
            if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
        for (size_t n = strlen(text); utf8_incomplete_tail(slice_make(text, n)); n--)
            text[n - 1] = 0;
        error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the sandbox could not do it (%d): %s", exit_code, text);
    }
}

/* ---- Attributes ---- */

/* The next word of `*s`, which moves on behind one blank. */
static struct slice word(struct slice *s) {
    const char *blank = s->len ? memchr(s->ptr, ' ', s->len) : NULL;
    size_t n = blank ? (size_t)(blank - s->ptr) : s->len;
    struct slice w = {s->ptr, n};
    size_t skip = blank ? n + 1 : n;
    *s = slice_make(s->ptr + skip, s->len - skip);
    return w;
}

static bool mode_of_letters(struct slice letters, unsigned *mode) {
    static const char kinds[] = "-dlbcps";
    static const unsigned bits[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK};
    if (letters.len < 10 || letters.len > 11) return false;
    const char *kind = strchr(kinds, letters.ptr[0]);
    if (!kind || !letters.ptr[0]) return false;
    unsigned m = bits[kind - kinds];
    for (int i = 0; i < 9; i++) {
        char c = letters.ptr[1 + i];
        unsigned bit = 0400u >> i;
        if (c == "rwxrwxrwx"[i] || c == 's' || c == 't') m |= bit;
        if ((c == 's' || c == 'S') && i == 2) m |= 04000;
        if ((c == 's' || c == 'S') && i == 5) m |= 02000;
        if ((c == 't' || c == 'T') && i == 8) m |= 01000;
        if (!strchr("-rwxsStT", c)) return false;
    }
    *mode = m;
    return true;
}

static bool attributes(struct slice *line, unsigned *mode, uint64_t *size, int64_t *mtime) {
    struct slice m = word(line), s = word(line), t = word(line);
    uint64_t n;
    if (m.len >= 10) { /* hex begins with letters, too: c1ed is a socket */
        if (!mode_of_letters(m, mode)) return false;
    } else {
        if (m.len == 0 || m.len > 8) return false;
        *mode = 0;
        for (size_t i = 0; i < m.len; i++) {
            const char *digit = memchr("0123456789abcdef", m.ptr[i], 16);
            if (!digit) return false;
            *mode = *mode << 4 | (unsigned)(digit - "0123456789abcdef");
        }
    }
    bool negative = t.len && t.ptr[0] == '-';
    if (!slice_parse_u64(s, INT64_MAX, size) ||
        !slice_parse_u64(slice_make(t.ptr + negative, t.len - negative), INT64_MAX, &n))
        return false;
    *mtime = negative ? -(int64_t)n : (int64_t)n;
    return true;
}

bool exec_file(const char *line, struct access_head *out) {
    struct slice rest = slice_of(line);
    unsigned mode;
    *out = (struct access_head){.fd = -1};
    if (!attributes(&rest, &mode, &out->size, &out->modified_at)) return false;
    out->mode = mode & 07777;
    char hex[SHA256_HEX_LEN + 1];
    sha256_hex(slice_of(line), hex);
    snprintf(out->etag, sizeof out->etag, "\"%.32s\"", hex);
    return true;
}

/* ---- Entries ---- */

/* The bytes up to a NUL. */
static bool text(struct slice *s, struct slice *out) {
    const char *end = s->len ? memchr(s->ptr, 0, s->len) : NULL;
    if (!end) return false;
    *out = slice_make(s->ptr, (size_t)(end - s->ptr));
    *s = slice_make(end + 1, s->len - out->len - 1);
    return true;
}

static void mode_letters(unsigned mode, char out[11]) {
    const char *kind = S_ISDIR(mode)    ? "d"
                       : S_ISLNK(mode)  ? "l"
                       : S_ISBLK(mode)  ? "b"
                       : S_ISCHR(mode)  ? "c"
                       : S_ISFIFO(mode) ? "p"
                       : S_ISSOCK(mode) ? "s"
                                        : "-";
    out[0] = *kind;
    for (int i = 0; i < 9; i++)
        out[1 + i] = mode & (0400u >> i) ? "rwxrwxrwx"[i] : '-';
    if (mode & 04000) out[3] = mode & 0100 ? 's' : 'S';
    if (mode & 02000) out[6] = mode & 010 ? 's' : 'S';
    if (mode & 01000) out[9] = mode & 01 ? 't' : 'T';
    out[10] = 0;
}

static struct slice base_of(struct slice name) {
    while (name.len > 1 && name.ptr[name.len - 1] == '/')
        name.len--;
    const char *slash = name.len ? memrchr(name.ptr, '/', name.len) : NULL;
    if (slash && name.len > 1) {
        size_t skip = (size_t)(slash + 1 - name.ptr);
        name = slice_make(name.ptr + skip, name.len - skip);
    }
    return name;
}

static json_t *make_entry(struct slice name, unsigned mode, uint64_t size, int64_t mtime) {
    char letters[11];
    mode_letters(mode, letters);
    json_t *entry = json_object();
    json_object_set_new(entry, "name", json_string_repaired(base_of(name)));
    json_object_set_new(entry, "size", json_integer((json_int_t)size));
    json_object_set_new(entry, "isDir", json_boolean(S_ISDIR(mode)));
    json_object_set_new(entry, "mode", json_string(letters));
    json_object_set_new(entry, "modifiedAt", json_integer(mtime));
    return entry;
}

/* Each name's attributes, in order; a name without any has gone meanwhile. `found` and `entries` have
 * one item for each that is left. */
static bool pair(struct slice names, struct slice lines, struct slice *found, json_t *entries) {
    size_t count = 0;
    struct slice name;
    while (text(&names, &name) && name.len) {
        struct slice at = lines;
        unsigned mode = 0;
        uint64_t size = 0;
        int64_t mtime = 0;
        if (!attributes(&at, &mode, &size, &mtime) || at.len <= name.len ||
            memcmp(at.ptr, name.ptr, name.len) != 0 || at.ptr[name.len] != '\n')
            continue;
        lines = slice_make(at.ptr + name.len + 1, at.len - name.len - 1);
        found[count++] = name;
        json_array_append_new(entries, make_entry(name, mode, size, mtime));
    }
    return lines.len == 0;
}

/* Links come in the order of the names, so one pass is enough. */
static bool add_targets(struct slice links, const struct slice *found, json_t *entries) {
    struct slice name, target;
    size_t i = 0, count = json_array_size(entries);
    while (text(&links, &name) && name.len) {
        if (!text(&links, &target)) return false;
        size_t at = i;
        while (at < count && !slice_equal(found[at], name))
            at++;
        if (at == count) continue;
        i = at + 1;
        json_object_set_new(json_array_get(entries, at), "linkTarget", json_string_repaired(target));
    }
    return true;
}

static int by_name(const void *a, const void *b) {
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    return strcmp(json_str_at(x, "name"), json_str_at(y, "name"));
}

static json_t *sorted(json_t *entries) {
    size_t count = json_array_size(entries);
    cleanup_free json_t **items = xcalloc(count + 1, sizeof *items);
    for (size_t i = 0; i < count; i++)
        items[i] = json_array_get(entries, i);
    qsort(items, count, sizeof *items, by_name);
    json_t *out = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append(out, items[i]);
    return out;
}

json_t *exec_entries(struct slice answer, const char *path, bool listed, struct error *err) {
    struct slice names = answer, rest = answer, name, lines;
    cleanup_json json_t *entries = json_array();
    size_t count = 0;
    bool ok = true;
    while ((ok = text(&rest, &name)) && name.len) {
        count++;
        ok = ok && (!listed || (slice_starts_with(name, "./") && name.len > 2 &&
                                !memchr(name.ptr + 2, '/', name.len - 2)));
        if (!ok) break;
    }
    cleanup_free struct slice *found = xcalloc(count + 1, sizeof *found);
    ok = ok && text(&rest, &lines) && pair(names, lines, found, entries) && add_targets(rest, found, entries);
    ok = ok && rest.len && rest.ptr[rest.len - 1] == 0;
    if (ok && listed)
        return json_pack("{s:o, s:o}", "path", json_string_repaired(slice_of(path)), "entries",
                         sorted(entries));
    if (ok && json_array_size(entries) == 1) {
        json_t *entry = json_incref(json_array_get(entries, 0));
        const char *mode = json_str_at(entry, "mode");
        json_object_set_new(entry, "path", json_string_repaired(slice_of(path)));
        json_object_set_new(entry, "type",
                            json_string(*mode == 'd'   ? "dir"
                                        : *mode == 'l' ? "symlink"
                                        : *mode == '-' ? "file"
                                                       : "other"));
        return entry;
    }
    if (ok)
        error_set(err, 404, "file_not_found", "%.300s: no such file or directory", path);
    else
        error_set(err, 502, ERR_BAD_ANSWER, "the sandbox gave a listing that makes no sense");
    return NULL;
}

/* ---- Outcomes ---- */

bool exec_ended(const char *fields, struct exec_ended *out) {
    struct slice s = slice_of(fields);
    uint64_t n[6] = {0};
    size_t count = 0;
    static const uint64_t max[] = {255, 1, 1, INT64_MAX, INT64_MAX, INT64_MAX};
    while (s.len && count < 6) {
        if (!slice_parse_u64(word(&s), max[count], &n[count])) return false;
        count++;
    }
    if (s.len || (count != 1 && count != 6)) return false;
    *out = (struct exec_ended){(int)n[0], n[1], n[2], count == 6 ? (int64_t)n[3] : -1, {n[4], n[5]}};
    return true;
}
