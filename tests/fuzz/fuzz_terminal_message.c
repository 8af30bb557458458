/* Messages of terminals' clients: whatever comes, only text in UTF-8 and sizes that a terminal can have come
 * out, and what is written of it is read again as the same. */
#include "common/terminal_message.h"
#include "common/text.h"
#include "tests/fuzz/fuzz.h"

static void same_again(const struct terminal_message *m) {
    cleanup_buffer struct buffer text = {0};
    struct terminal_message again;
    if (m->type == TERMINAL_INPUT)
        terminal_message_put_input(&text, m->text);
    else if (m->type == TERMINAL_OUTPUT)
        terminal_message_put_output(&text, m->text);
    else
        terminal_message_put_resize(&text, m->cols, m->rows);
    terminal_message_parse(buffer_slice(&text), &again);
    MUST(again.type == m->type && slice_equal(again.text, m->text));
    MUST(again.cols == m->cols && again.rows == m->rows);
    terminal_message_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct terminal_message m;
    terminal_message_parse(slice_make((const char *)data, size), &m);
    MUST(utf8_valid(m.text));
    if (m.type == TERMINAL_RESIZE) MUST(m.cols >= 1 && m.cols <= 65535 && m.rows >= 1 && m.rows <= 65535);
    if (m.type == TERMINAL_INPUT || m.type == TERMINAL_OUTPUT || m.type == TERMINAL_RESIZE) same_again(&m);
    terminal_message_free(&m);
    return 0;
}
