/* The OpenAPI 3.1 document, made from the table of routes. */
#pragma once

#include "common/bytes.h"

/* The document's text, built at the first call; owned here until openapi_free(). Thread-safe. */
struct slice openapi_document(void);
void openapi_free(void);
