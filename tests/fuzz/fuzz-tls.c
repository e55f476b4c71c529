/*
 * TLS sessions whose peer is not what it seems: another session of ours, some
 * bytes of which are changed on the way, or bytes that no TLS ever made. The
 * first bytes say who we are, in how large pieces the bytes come, how many
 * changes there are (three bytes each: where, and what is put over it); the
 * rest comes behind the handshake, or instead of it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "mesh/tls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROOM = 64 * 1024, MAX_EDITS = 15 };

/* Good until the year 2126, and for nothing. */
static const char root_pem[] =
	"-----BEGIN CERTIFICATE-----\n"
	"MIIBbjCCARWgAwIBAgIUSihKeQ14TkjIxRljq/65jeSbRggwCgYIKoZIzj0EAwIw\n"
	"DDEKMAgGA1UEAwwBcjAgFw0yNjExMjMwOTQzNDBaGA8yMTI2MTAzMDA5NDM0MFow\n"
	"DDEKMAgGA1UEAwwBcjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEHCeuXNqtGZ\n"
	"hVJjgCvAA3sTAbnw2ty2RMlbMXc+srh4umm6LA97PeOz+vsZM7dSCMBINBtT7Tfa\n"
	"QNvjVbwe4pSjUzBRMB0GA1UdDgQWBBSN4g3qAB4NdADgJg5p3q6rZ9SsiTAfBgNV\n"
	"HSMEGDAWgBSN4g3qAB4NdADgJg5p3q6rZ9SsiTAPBgNVHRMBAf8EBTADAQH/MAoG\n"
	"CCqGSM49BAMCA0cAMEQCIFOTxgb3oAy/ivd+nC6oLTSm1UvNJ9f1qPUQHpTF+DFH\n"
	"AiAt7pGwsxrhGi/niindv6wtTOUz2Lthe72V1Re3cKXHzg==\n"
	"-----END CERTIFICATE-----\n";
static const char leaf_pem[] =
	"-----BEGIN CERTIFICATE-----\n"
	"MIIBjDCCATGgAwIBAgIUEEdy/yeeO6r7+hdhB5dkWl+VAQIwCgYIKoZIzj0EAwIw\n"
	"DDEKMAgGA1UEAwwBcjAgFw0yNjExMjMwOTQzNDFaGA8yMTI2MTAzMDA5NDM0MVow\n"
	"DDEKMAgGA1UEAwwBbDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGcqEuw1tgQb\n"
	"vMjnrhK4SIKe2WHsQWNqwoV93r3El1hzhkXgYYBRT7UKCFMJLFKDVICmbNcHx+7X\n"
	"mpXhzPg85hyjbzBtMCAGA1UdEQQZMBeGFXNwaWZmZTovL3RkL25zL2Evc2EvYjAJ\n"
	"BgNVHRMEAjAAMB0GA1UdDgQWBBQzH/IOBzi+8PpnU04Tl0W1wqgWDDAfBgNVHSME\n"
	"GDAWgBSN4g3qAB4NdADgJg5p3q6rZ9SsiTAKBggqhkjOPQQDAgNJADBGAiEAhWkX\n"
	"jg+61+nJYKYJ96ira5otmnFLqDHzx5zGvm+UN90CIQC/nGlltDQEbVEBFd/xdSV9\n"
	"UOYoLDgTj8dzu09l9dA7ew==\n"
	"-----END CERTIFICATE-----\n";
static const char key_pem[] =
	"-----BEGIN PRIVATE KEY-----\n"
	"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/bg3/kvTvZ3hj1V5\n"
	"gXPZkO5f0e0ytR9mloiEY7Gl+4ehRANCAARnKhLsNbYEG7zI564SuEiCntlh7EFj\n"
	"asKFfd69xJdYc4ZF4GGAUU+1CghTCSxSg1SApmzXB8fu15qV4cz4POYc\n"
	"-----END PRIVATE KEY-----\n";

struct way {			/* to the one under test */
	struct tls_session *to;
	size_t piece;
	size_t at;		/* bytes that went */
	size_t n_edits;
	struct {
		uint16_t at;
		uint8_t with;
	} edits[MAX_EDITS];
	int r;
};

static struct tls_ctx *ctx_of(enum tls_role role)
{
	static const char *const alpn[] = { "h2", NULL };
	const struct tls_config config = { .role = role, .cert_pem = leaf_pem, .key_pem = key_pem, .roots_pem = root_pem, .alpn = alpn };
	struct tls_ctx *ctx;
	struct diag d;

	if (tls_ctx_new(&config, &ctx, &d) < 0)
		abort();
	return ctx;
}

static int feed(struct tls_session *s, const uint8_t *data, size_t len)
{
	static uint8_t plain[TLS_PLAINTEXT_MAX];
	struct tls_in in = { .data = data, .len = len, .out = plain, .out_size = sizeof(plain) };
	int r;

	do {
		size_t left = in.len;

		r = tls_feed(s, &in);
		if (in.out_len > sizeof(plain) || in.len > left || (r > 0 && r != TLS_E_CLOSED && !*tls_error(s)))
			abort();
		if (in.out_len && !tls_is_open(s))
			abort();
	} while (r == 0 && (in.len || in.out_len));
	return r;
}

static void carry(struct way *w, uint8_t *data, size_t len)
{
	for (size_t i = 0; i < w->n_edits; i++)
		if (w->edits[i].at >= w->at && w->edits[i].at < w->at + len)
			data[w->edits[i].at - w->at] ^= w->edits[i].with;
	w->at += len;
	for (size_t at = 0; at < len && w->r == 0; at += w->piece)
		w->r = feed(w->to, data + at, MIN(w->piece, len - at));
}

/* Both ways, until nobody has anything to say. */
static void talk(struct way *w, struct tls_session *peer)
{
	static uint8_t bytes[ROOM];
	int r = 0;

	while (tls_pending(w->to) || tls_pending(peer)) {
		size_t n = tls_take(peer, bytes, sizeof(bytes));

		if (n && w->r == 0)
			carry(w, bytes, n);
		n = tls_take(w->to, bytes, sizeof(bytes));
		if (n && r == 0)
			r = feed(peer, bytes, n);
	}
}

static void send_data(struct way *w, struct tls_session *peer)
{
	static uint8_t text[3000], sealed[ROOM];
	struct iovec iov = { text, sizeof(text) };
	size_t n;

	if (tls_is_open(peer) && tls_seal(peer, &iov, 1, sealed, sizeof(sealed), &n) == 0 && w->r == 0)
		carry(w, sealed, n);
	if (tls_is_open(w->to) && tls_seal(w->to, &iov, 1, sealed, sizeof(sealed), &n) == 0 && n > sizeof(sealed))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t pieces[] = { 1, 7, 1000, ROOM };
	static struct tls_ctx *ctx[2];
	struct wire in = wire_init(data, size);
	uint8_t flags = wire_u8(&in), n = wire_u8(&in) & 15;
	struct way w = { .piece = pieces[flags >> 2 & 3] };
	struct tls_session *peer;

	if (!ctx[0]) {
		ctx[0] = ctx_of(TLS_CLIENT);
		ctx[1] = ctx_of(TLS_SERVER);
	}
	for (; w.n_edits < n; w.n_edits++) {
		w.edits[w.n_edits].at = wire_u16(&in);
		w.edits[w.n_edits].with = wire_u8(&in);
	}
	if (in.bad)
		return 0;
	if (tls_session_new(ctx[flags & 1], NULL, &w.to) < 0 || tls_session_new(ctx[!(flags & 1)], NULL, &peer) < 0)
		abort();
	if (!(flags & 2)) {
		talk(&w, peer);
		if (!n && (!tls_is_open(w.to) || w.r != 0))
			abort();
		send_data(&w, peer);
	}
	for (size_t left; w.r == 0 && (left = (size_t)(in.end - in.pos)); in.pos += MIN(left, w.piece))
		w.r = feed(w.to, in.pos, MIN(left, w.piece));
	if (w.r > 0 && w.r != TLS_E_CLOSED && feed(w.to, (const uint8_t *)"x", 1) != w.r)
		abort();	/* it is over for good */
	if (tls_shutdown(w.to) < 0)
		abort();
	talk(&w, peer);
	tls_session_free(w.to);
	tls_session_free(peer);
	return 0;
}
