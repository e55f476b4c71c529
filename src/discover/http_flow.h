#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/list.h"
#include "discover/protocol.h"
#include "proto/http1.h"

/*
 * The HTTP exchanges of one sniffed connection, for discovery protocols that
 * are spoken over HTTP.
 *
 * Requests and responses are paired in order (pipelining, interim answers, HEAD,
 * answers that come minutes later), bodies are collected up to a maximum and
 * decoded (gzip, deflate), and whole exchanges are handed over. A connection
 * that is TLS, HTTP/2 or switches to another protocol is given up: see
 * http_flow_end().
 */
enum {
	HTTP_FLOW_MAX_BODY = 1024 * 1024,		/* as sent */
	HTTP_FLOW_MAX_DECODED = 4 * 1024 * 1024,	/* after gzip */
	HTTP_FLOW_MAX_PENDING = 64,			/* requests without an answer */
};

/* Text is zero-terminated and as sent: percent-encoding is the protocol's to undo. */
struct http_exchange {
	const char *method;
	const char *path;		/* up to the '?', without scheme and host */
	const char *query;		/* what is after the '?', or "" */
	const struct http1_head *request;
	const uint8_t *request_body;	/* decoded; NULL when empty, too long, with holes or not decodable */
	size_t n_request_body;
	uint16_t status;		/* final; 0 in on_request() */
	const struct http1_head *response;	/* NULL in on_request() */
	const uint8_t *response_body;	/* likewise */
	size_t n_response_body;
};

struct http_flow_events {
	/* Is this exchange of interest? Bodies of others are not kept. Optional. */
	bool (*wants)(const char *method, const char *path, void *data);
	/* A request is there; its answer is not, or was not looked at. Its body is not decoded for this. Optional. */
	void (*on_request)(const struct http_exchange *x, const struct discover_ctx *ctx, void *data);
	/* Request and final answer are complete. */
	void (*on_exchange)(const struct http_exchange *x, const struct discover_ctx *ctx, void *data);
};

enum http_flow_end {
	HTTP_FLOW_OPEN,
	HTTP_FLOW_TLS,			/* blind */
	HTTP_FLOW_H2,			/* prior knowledge, or 101 to h2c: not decoded yet */
	HTTP_FLOW_UPGRADED,		/* another protocol after 101 or CONNECT */
	HTTP_FLOW_NOT_HTTP,
};

struct http_flow;

/* NULL: no memory. @events outlives the flow. */
struct http_flow *http_flow_new(const struct http_flow_events *events, void *data);
struct http_flow *http_flow_free(struct http_flow *f);

/* As discover_protocol's stream functions: false when there is nothing more to learn. */
bool http_flow_data(struct http_flow *f, enum discover_dir dir, const uint8_t *data, size_t len, const struct discover_ctx *ctx);
bool http_flow_gap(struct http_flow *f, enum discover_dir dir, size_t len, const struct discover_ctx *ctx);
void http_flow_close(struct http_flow *f, enum discover_dir dir, const struct discover_ctx *ctx);
enum http_flow_end http_flow_end(const struct http_flow *f);
size_t http_flow_held(const struct http_flow *f);	/* bytes of what is not complete, or not answered */
