/* How a preview that cannot be had is shown. */
#pragma once

#include "router/request.h"

/* Answers with a page for people who opened the URL, with JSON for programs (lessons I21). */
void preview_reply_failure(struct request *r, const struct error *err);
