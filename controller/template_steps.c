#include "controller/template_steps.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/text.h"

#include <stdio.h>

#define PART (72 * 1024) /* bytes that make 96 KiB of base64; Linux allows 128 KiB an argument */
_Static_assert(PART % 3 == 0, "parts are decoded one by one");

/* Arguments: path, mode ("" = leave it), number of parts, parts; and so on. */
static const char write_files[] =
    "set -e\n"
    "while [ $# -gt 0 ]; do\n"
    "  path=$1 mode=$2 parts=$3; shift 3\n"
    "  mkdir -p -- \"$(dirname -- \"$path\")\"\n"
    "  : > \"$path\"\n"
    "  while [ \"$parts\" -gt 0 ]; do\n"
    "    printf %s \"$1\" | base64 -d >> \"$path\"; shift; parts=$((parts - 1))\n"
    "  done\n"
    "  [ -z \"$mode\" ] || chmod \"$mode\" -- \"$path\"\n"
    "done\n";

/* Kubernetes replaces $(NAME) in commands and takes $$ for $: what is meant for the shell is escaped. */
static json_t *literal(const char *text, size_t len) {
    cleanup_buffer struct buffer out = {0};
    for (size_t i = 0; i < len; i++) {
        buffer_append_char(&out, text[i]);
        if (text[i] == '$') buffer_append_char(&out, '$');
    }
    return json_stringn(out.data ? out.data : "", out.len);
}

static void add_file(json_t *argv, const json_t *file) {
    const json_t *content = json_object_get(file, "content");
    const char *bytes = json_string_value(content);
    size_t len = json_string_length(content);
    const char *path = json_str_at(file, "path");
    char number[32] = "";
    json_array_append_new(argv, literal(path, strlen(path)));
    const json_t *mode = json_object_get(file, "mode");
    if (json_is_integer(mode)) snprintf(number, sizeof number, "%04llo", json_integer_value(mode) & 07777LL);
    json_array_append_new(argv, json_string(number));
    snprintf(number, sizeof number, "%zu", (len + PART - 1) / PART);
    json_array_append_new(argv, json_string(number));
    for (size_t at = 0; at < len; at += PART) {
        cleanup_buffer struct buffer part = {0};
        base64_encode(slice_make(bytes + at, len - at < PART ? len - at : PART), &part);
        json_array_append_new(argv, json_string(buffer_cstr(&part)));
    }
}

json_t *files_command(const json_t *files) {
    json_t *argv = json_array();
    size_t i;
    json_t *file;
    json_array_foreach(files, i, file) {
        if (json_string_length(json_object_get(file, "content")) == 0 || !*json_str_at(file, "path"))
            continue;
        if (json_array_size(argv) == 0) {
            json_array_append_new(argv, json_string("/bin/sh"));
            json_array_append_new(argv, json_string("-c"));
            json_array_append_new(argv, literal(write_files, sizeof write_files - 1));
            json_array_append_new(argv, json_string("file-deployer"));
        }
        add_file(argv, file);
    }
    if (json_array_size(argv) > 0) return argv;
    json_decref(argv);
    return NULL;
}

json_t *scripts_command(const json_t *scripts) {
    cleanup_buffer struct buffer all = {0};
    size_t i;
    json_t *script;
    json_array_foreach(scripts, i, script) {
        if (json_string_length(script) == 0) continue;
        if (all.len == 0) buffer_append_str(&all, "set -e\n");
        buffer_append(&all, json_string_value(script), json_string_length(script));
        buffer_append_char(&all, '\n');
    }
    if (all.len == 0) return NULL;
    return json_pack("[s, s, o]", "/bin/sh", "-c", literal(all.data, all.len));
}
