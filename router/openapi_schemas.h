/* The parts of the OpenAPI document that are not in the table of routes, as JSON texts. */
#pragma once

extern const char openapi_frame[];
extern const char openapi_schemas[]; /* an object of named schemas */
