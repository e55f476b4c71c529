#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/tls13_record.h"

/* RFC 8448, section 3: the application traffic secrets, and every record that was sent under them. */
#define CLIENT_SECRET "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"
#define SERVER_SECRET "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"
#define CLIENT_DATA \
	"1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a62" \
	"92a2977014bd1e3deae63aeebb21694915e4"
#define SERVER_TICKET \
	"17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758db289a015940252f55" \
	"713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4a3d03f75e09c30ba1e62972ac46f75f7b9" \
	"81be63439b2999ce130646151398 91d5e4c5b406f16e3fc181a77ca475840025db2f0a77f81b5ab05b94c01346755f69232c86519d86" \
	"cbeeac87aac347d143f9605d64f650db4d023e70e952ca49fe5137121c74bc2697687e248746d6df353005f3bce18696129c8153556b" \
	"3b6c6779b37bf15985684f"
#define SERVER_DATA \
	"17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5" \
	"f0a21c0047c2abf332540dd032e167c2955d"
#define CLIENT_CLOSE "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3"
#define SERVER_CLOSE "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9"

/* The same section: the handshake traffic secrets, the server's whole flight in one record, and the client's Finished. */
#define CLIENT_HANDSHAKE_SECRET "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21"
#define SERVER_HANDSHAKE_SECRET "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"
#define SERVER_FLIGHT \
	"080000240022000a00140012001d00170018001901000101010201030104001c00024001000000000b0001b9000001b50001b0308201" \
	"ac30820115a003020102020102300d06092a864886f70d01010b0500300e310c300a06035504031303727361301e170d313630373330" \
	"3031323335395a170d3236303733303031323335395a300e310c300a0603550403130372736130819f300d06092a864886f70d010101" \
	"050003818d0030818902818100b4bb498f8279303d980836399b36c6988c0c68de55e1bdb826d3901a2461eafd2de49a91d015abbc9a" \
	"95137ace6c1af19eaa6af98c7ced43120998e187a80ee0ccb0524b1b018c3e0b63264d449a6d38e22a5fda430846748030530ef0461c" \
	"8ca9d9efbfae8ea6d1d03e2bd193eff0ab9a8002c47428a6d35a8d88d79f7f1e3f0203010001a31a301830090603551d130402300030" \
	"0b0603551d0f0404030205a0300d06092a864886f70d01010b05000381810085aad2a0e5b9276b908c65f73a7267170618a54c5f8a7b" \
	"337d2df7a594365417f2eae8f8a58c8f8172f9319cf36b7fd6c55b80f21a03015156726096fd335e5e67f2dbf102702e608ccae6bec1" \
	"fc63a42a99be5c3eb7107c3c54e9b9eb2bd5203b1c3b84e0a8b2f759409ba3eac9d91d402dcc0cc8f8961229ac9187b42b4de100000f" \
	"000084080400805a747c5d88fa9bd2e55ab085a61015b7211f824cd484145ab3ff52f1fda8477b0b7abc90db78e2d33a5c141a078653" \
	"fa6bef780c5ea248eeaaa785c4f394cab6d30bbe8d4859ee511f602957b15411ac027671459e46445c9ea58c181e818e95b8c3fb0bf3" \
	"278409d3be152a3da5043e063dda65cdf5aea20d53dfacd42f74f3140000209b9b141d906337fbd2cbdce71df4deda4ab42c309572cb" \
	"7fffee5454b78f0718"
#define SERVER_FLIGHT_RECORD \
	"17030302a2d1ff334a56f5bff6594a07cc87b580233f500f45e489e7f33af35edf7869fcf40aa40aa2b8ea73f848a7ca07612ef9f945" \
	"cb960b4068905123ea78b111b429ba9191cd05d2a389280f526134aadc7fc78c4b729df828b5ecf7b13bd9aefb0e57f271585b8ea9bb" \
	"355c7c79020716cfb9b1183ef3ab20e37d57a6b9d7477609aee6e122a4cf51427325250c7d0e509289444c9b3a648f1d71035d2ed65b" \
	"0e3cdd0cbae8bf2d0b227812cbb360987255cc744110c453baa4fcd610928d809810e4b7ed1a8fd991f06aa6248204797e36a6a73b70" \
	"a2559c09ead686945ba246ab66e5edd8044b4c6de3fcf2a89441ac66272fd8fb330ef8190579b3684596c960bd596eea520a56a8d650" \
	"f563aad27409960dca63d3e688611ea5e22f4415cf9538d51a200c27034272968a264ed6540c84838d89f72c24461aad6d26f59ecaba" \
	"9acbbb317b66d902f4f292a36ac1b639c637ce343117b659622245317b49eeda0c6258f100d7d961ffb138647e92ea330faeea6dfa31" \
	"c7a84dc3bd7e1b7a6c7178af36879018e3f252107f243d243dc7339d5684c8b0378bf30244da8c87c843f5e56eb4c5e8280a2b48052c" \
	"f93b16499a66db7cca71e4599426f7d461e66f99882bd89fc50800becca62d6c74116dbd2972fda1fa80f85df881edbe5a37668936b3" \
	"35583b599186dc5c6918a396fa48a181d6b6fa4f9d62d513afbb992f2b992f67f8afe67f76913fa388cb5630c8ca01e0c65d11c66a1e" \
	"2ac4c85977b7c7a6999bbf10dc35ae69f5515614636c0b9b68c19ed2e31c0b3b66763038ebba42f3b38edc0399f3a9f23faa63978c31" \
	"7fc9fa66a73f60f0504de93b5b845e275592c12335ee340bbc4fddd502784016e4b3be7ef04dda49f4b440a30cb5d2af939828fd4ae3" \
	"794e44f94df5a631ede42c1719bfdabf0253fe5175be898e750edc53370d2b"
#define CLIENT_FINISHED "14000020a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61"
#define CLIENT_FINISHED_RECORD \
	"170303003575ec4dc238cce60b298044a71e219c56cc77b0517fe9b93c7a4bfc44d87f38f80338ac98fc46deb384bd1caeacab6867d7" \
	"26c40546"

enum { ROOM = 128 * 1024 };

static size_t unhex(const char *text, uint8_t *out)
{
	size_t n = 0;
	unsigned v;

	for (; *text; text++)
		if (*text != ' ') {
			assert_int_equal(sscanf(text++, "%2x", &v), 1);
			out[n++] = (uint8_t)v;
		}
	return n;
}

static void new_end_with(struct tls13 *t, uint16_t suite, const struct aead *aead, bool client, const char *client_secret, const char *server_secret)
{
	const struct tls13_suite *s = tls13_suite_find(suite);
	uint8_t c[TLS13_SECRET_MAX] = {}, v[TLS13_SECRET_MAX] = {};

	assert_non_null(s);
	unhex(client_secret, c);
	unhex(server_secret, v);
	assert_int_equal(tls13_init(t, s, aead, client, client ? v : c, client ? c : v), 0);
}

static void new_end(struct tls13 *t, uint16_t suite, const struct aead *aead, bool client)
{
	new_end_with(t, suite, aead, client, CLIENT_SECRET, SERVER_SECRET);
}

static struct tls13 client, server;

static int setup(void **state)
{
	(void)state;
	new_end(&client, 0x1301, aead_best(), true);
	new_end(&server, 0x1301, aead_best(), false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tls13_deinit(&client);
	tls13_deinit(&server);
	return 0;
}

static void expect_key(const struct tls13_half *h, const struct tls13 *t, const char *key_hex, const char *iv_hex)
{
	uint8_t key[16], want[16];

	assert_int_equal(tls13_expand_label(t->suite, h->secret, "key", key, sizeof(key)), 0);
	unhex(key_hex, want);
	assert_memory_equal(key, want, 16);
	unhex(iv_hex, want);
	assert_memory_equal(h->iv, want, 12);
}

static void keys_are_those_of_rfc_8448(void **state)
{
	(void)state;
	expect_key(&client.tx, &client, "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9");
	expect_key(&client.rx, &client, "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984");
}

/* Opens the record @hex, which must hold @ret_len bytes of plaintext, or give @want. */
static size_t open_hex(struct tls13 *t, const char *hex, int want, uint8_t *out)
{
	uint8_t record[2048];
	size_t n = unhex(hex, record), len = 0, n_out = 0;

	assert_int_equal(tls13_record_len(t, record, n, &len), 0);
	assert_int_equal(len, n);
	assert_int_equal(tls13_open(t, record, n, out, &n_out), want);
	return n_out;
}

static void records_of_rfc_8448_open(void **state)
{
	static uint8_t out[TLS13_OPEN_ROOM];
	uint8_t want[50];

	(void)state;
	for (size_t i = 0; i < sizeof(want); i++)
		want[i] = (uint8_t)i;
	assert_int_equal(open_hex(&client, SERVER_TICKET, 0, out), 0);
	assert_int_equal(client.n_tickets, 1);
	assert_int_equal(open_hex(&client, SERVER_DATA, 0, out), 50);
	assert_memory_equal(out, want, 50);
	assert_int_equal(open_hex(&client, SERVER_CLOSE, TLS13_E_CLOSED, out), 0);
	assert_int_equal(open_hex(&server, CLIENT_DATA, 0, out), 50);
	assert_memory_equal(out, want, 50);
	assert_int_equal(open_hex(&server, CLIENT_CLOSE, TLS13_E_CLOSED, out), 0);
}

static void records_of_rfc_8448_are_what_we_make(void **state)
{
	uint8_t data[50], out[256], want[256];
	struct iovec iov[2] = { { data, 13 }, { data + 13, 37 } };
	size_t n;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)i;
	assert_int_equal(tls13_seal(&client, iov, 2, out, sizeof(out), &n), 0);
	assert_int_equal(n, unhex(CLIENT_DATA, want));
	assert_memory_equal(out, want, n);
	tls13_close(&client, TLS13_ALERT_CLOSE_NOTIFY);
	assert_int_equal(tls13_take(&client, out, sizeof(out), &n), 0);
	assert_int_equal(n, unhex(CLIENT_CLOSE, want));
	assert_memory_equal(out, want, n);
	assert_int_equal(tls13_seal(&client, iov, 2, out, sizeof(out), &n), -EPIPE);
}

/* One handshake record of the trace: made by its sender and opened by its receiver, with this implementation. */
static void goes_both_ways(const struct aead *aead, bool by_client, const char *content_hex, const char *record_hex)
{
	uint8_t content[1024], record[1024], out[1024], type;
	size_t n_content = unhex(content_hex, content), n_record = unhex(record_hex, record), n = 0;
	struct iovec iov[3] = { { content, 7 }, { content + 7, n_content - 7 } };
	struct tls13 from, to;

	new_end_with(&from, 0x1301, aead, by_client, CLIENT_HANDSHAKE_SECRET, SERVER_HANDSHAKE_SECRET);
	new_end_with(&to, 0x1301, aead, !by_client, CLIENT_HANDSHAKE_SECRET, SERVER_HANDSHAKE_SECRET);
	assert_int_equal(tls13_seal_record(&from, TLS13_CONTENT_HANDSHAKE, iov, 2, n_content, out), 0);
	assert_int_equal(n_content + TLS13_OVERHEAD, n_record);
	assert_memory_equal(out, record, n_record);

	assert_int_equal(tls13_record_len(&to, record, n_record, &n), 0);
	assert_int_equal(n, n_record);
	assert_int_equal(tls13_open_record(&to, record, n_record, out, &type, &n), 0);
	assert_int_equal(type, TLS13_CONTENT_HANDSHAKE);
	assert_int_equal(n, n_content);
	assert_memory_equal(out, content, n);
	/* It was the first under its key: a repetition is the second. */
	assert_int_equal(tls13_open_record(&to, record, n_record, out, &type, &n), TLS13_E_BROKEN);
	assert_int_equal(to.alert, TLS13_ALERT_BAD_RECORD_MAC);
	tls13_deinit(&from);
	tls13_deinit(&to);
}

static void handshake_records_of_rfc_8448_go_both_ways(void **state)
{
	const struct aead *const all[] = { &aead_evp, aead_native };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(all); i++) {
		if (!all[i] || !all[i]->usable())
			continue;
		goes_both_ways(all[i], false, SERVER_FLIGHT, SERVER_FLIGHT_RECORD);
		goes_both_ways(all[i], true, CLIENT_FINISHED, CLIENT_FINISHED_RECORD);
	}
}

static void handshake_keys_are_those_of_rfc_8448(void **state)
{
	struct tls13 t;

	(void)state;
	new_end_with(&t, 0x1301, aead_best(), true, CLIENT_HANDSHAKE_SECRET, SERVER_HANDSHAKE_SECRET);
	expect_key(&t.tx, &t, "dbfaa693d1762c5b666af5d950258d01", "5bd3c71b836e0b76bb73265f");
	expect_key(&t.rx, &t, "3fce516009c21727d0f2e4e86ee403bc", "5d313eb2671276ee13000b30");
	tls13_deinit(&t);
}

/* With the right keys they are nevertheless none of ours: libssl has had the handshake, and what comes after it is other messages. */
static void handshake_records_of_rfc_8448_are_refused_after_the_handshake(void **state)
{
	static uint8_t out[TLS13_OPEN_ROOM];
	struct tls13 t;

	(void)state;
	new_end_with(&t, 0x1301, aead_best(), true, CLIENT_HANDSHAKE_SECRET, SERVER_HANDSHAKE_SECRET);
	assert_int_equal(open_hex(&t, SERVER_FLIGHT_RECORD, TLS13_E_BROKEN, out), 0);
	assert_int_equal(t.alert, TLS13_ALERT_UNEXPECTED_MESSAGE);
	tls13_deinit(&t);
	/* And with the keys of what follows they are noise. */
	assert_int_equal(open_hex(&client, SERVER_FLIGHT_RECORD, TLS13_E_BROKEN, out), 0);
	assert_int_equal(client.alert, TLS13_ALERT_BAD_RECORD_MAC);
	assert_int_equal(open_hex(&server, CLIENT_FINISHED_RECORD, TLS13_E_BROKEN, out), 0);
	assert_int_equal(server.alert, TLS13_ALERT_BAD_RECORD_MAC);
}

/* --- two ends of ours --- */

static uint8_t wire_bytes[ROOM * 2];

/* Opens all records of the @n bytes; returns the first result that is not 0. */
static int open_all(struct tls13 *t, const uint8_t *bytes, size_t n, uint8_t *out, size_t *ret_len)
{
	static uint8_t part[TLS13_OPEN_ROOM];
	size_t total = 0, len, n_part;

	*ret_len = 0;
	while (n) {
		int r = tls13_record_len(t, bytes, n, &len);

		if (r != 0)
			return r;
		assert_true(len <= n);
		r = tls13_open(t, bytes, len, part, &n_part);
		if (r != 0)
			return r;
		if (out)
			memcpy(out + total, part, n_part);
		total += n_part;
		*ret_len = total;
		bytes += len;
		n -= len;
	}
	return 0;
}

static void every_length_goes_through(void **state)
{
	static const uint16_t suites[] = { 0x1301, 0x1302, 0x1303 };
	static uint8_t data[TLS13_PLAINTEXT_MAX * 3], back[TLS13_PLAINTEXT_MAX * 3];

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 13);
	for (size_t s = 0; s < ELEMENTS(suites); s++) {
		struct tls13 a, b;

		new_end(&a, suites[s], aead_best(), true);
		new_end(&b, suites[s], &aead_evp, false);
		for (size_t len = 1; len < sizeof(data); len += len < 600 ? 1 : 509) {
			struct iovec iov = { data, len };
			size_t n, n_back;

			assert_int_equal(tls13_seal(&a, &iov, 1, wire_bytes, sizeof(wire_bytes), &n), 0);
			assert_true(n <= tls13_seal_size(&a, len));
			assert_int_equal(open_all(&b, wire_bytes, n, back, &n_back), 0);
			assert_int_equal(n_back, len);
			assert_memory_equal(back, data, len);
		}
		tls13_deinit(&a);
		tls13_deinit(&b);
	}
}

/* A record of any content type, as a peer that means ill could make it. */
static size_t forge(struct tls13 *from, uint8_t type, const void *data, size_t len, size_t padding, uint8_t *out)
{
	static uint8_t zeros[TLS13_CIPHERTEXT_MAX];
	struct iovec iov[3] = { { (void *)(uintptr_t)data, len }, { &type, 1 }, { zeros, padding } };
	size_t n = len + 1 + padding + AEAD_TAG_LEN;
	uint8_t nonce[AEAD_NONCE_LEN], key[AEAD_KEY_MAX];
	struct aead_key *k;

	out[0] = 23, out[1] = 3, out[2] = 3, out[3] = (uint8_t)(n >> 8), out[4] = (uint8_t)n;
	memcpy(nonce, from->tx.iv, sizeof(nonce));
	for (int i = 0; i < 8; i++)
		nonce[11 - i] ^= (uint8_t)(from->tx.seq >> (8 * i));
	from->tx.seq++;
	assert_int_equal(tls13_expand_label(from->suite, from->tx.secret, "key", key, 16), 0);
	assert_int_equal(aead_evp.key_new(AEAD_AES_128_GCM, AEAD_SEAL, key, &k), 0);
	assert_int_equal(aead_evp.seal(k, nonce, out, 5, iov, 3, out + 5), 0);
	aead_evp.key_free(k);
	return n + 5;
}

static void expect_broken(struct tls13 *from, struct tls13 *to, uint8_t type, const void *data, size_t len, size_t padding, uint8_t alert)
{
	size_t n_bad = forge(from, type, data, len, padding, wire_bytes), n, n_out;
	uint8_t out[64];

	assert_int_equal(open_all(to, wire_bytes, n_bad, NULL, &n_out), TLS13_E_BROKEN);
	assert_non_null(to->why);
	assert_int_equal(tls13_pending(to), TLS13_OVERHEAD + 2);
	assert_int_equal(tls13_take(to, out, sizeof(out), &n), 0);
	assert_int_equal(open_all(from, out, n, NULL, &n_out), TLS13_E_REFUSED);
	assert_int_equal(from->peer_alert, alert);
	assert_int_equal(open_all(to, wire_bytes, n_bad, NULL, &n_out), TLS13_E_BROKEN);	/* and stays so */
}

static void what_must_not_come_is_answered_by_its_alert(void **state)
{
	static uint8_t big[TLS13_PLAINTEXT_MAX + 1];
	static const struct {
		uint8_t type;
		const char *data;
		size_t len, padding;
		uint8_t alert;
	} table[] = {
		{ 20, "\1", 1, 0, TLS13_ALERT_UNEXPECTED_MESSAGE },		/* ChangeCipherSpec */
		{ 0, "", 0, 3, TLS13_ALERT_UNEXPECTED_MESSAGE },		/* padding only */
		{ 24, "\1", 1, 0, TLS13_ALERT_UNEXPECTED_MESSAGE },		/* heartbeat */
		{ 22, "", 0, 0, TLS13_ALERT_UNEXPECTED_MESSAGE },		/* empty handshake */
		{ 22, "\0\0\0\0", 4, 0, TLS13_ALERT_UNEXPECTED_MESSAGE },	/* HelloRequest */
		{ 22, "\1\0\0\0", 4, 9, TLS13_ALERT_UNEXPECTED_MESSAGE },	/* ClientHello */
		{ 22, "\4\0\0\1x", 5, 0, TLS13_ALERT_UNEXPECTED_MESSAGE },	/* a ticket, to a server */
		{ 22, "\30\0\0\2\0\0", 6, 0, TLS13_ALERT_DECODE_ERROR },	/* KeyUpdate too long */
		{ 22, "\30\0\0\0", 4, 0, TLS13_ALERT_DECODE_ERROR },		/* and too short */
		{ 22, "\30\0\0\1\2", 5, 0, TLS13_ALERT_ILLEGAL_PARAMETER },
		{ 22, "\30\0\0\1\0\30", 6, 0, TLS13_ALERT_UNEXPECTED_MESSAGE },	/* not the last in its record */
		{ 21, "\1", 1, 0, TLS13_ALERT_DECODE_ERROR },			/* half an alert */
		{ 21, "\1\0\1\0", 4, 0, TLS13_ALERT_DECODE_ERROR },		/* two alerts */
		{ 21, "", 0, 5, TLS13_ALERT_DECODE_ERROR },
		{ 23, NULL, TLS13_PLAINTEXT_MAX + 1, 0, TLS13_ALERT_RECORD_OVERFLOW },
		{ 23, NULL, TLS13_PLAINTEXT_MAX, 1, TLS13_ALERT_RECORD_OVERFLOW },
		{ 23, "x", 1, TLS13_PLAINTEXT_MAX, TLS13_ALERT_RECORD_OVERFLOW },
		{ 0, "", 0, TLS13_PLAINTEXT_MAX, TLS13_ALERT_UNEXPECTED_MESSAGE },
	};

	for (size_t i = 0; i < ELEMENTS(table); i++) {
		expect_broken(&client, &server, table[i].type, table[i].data ? table[i].data : (char *)big, table[i].len,
			      table[i].padding, table[i].alert);
		teardown(state);
		setup(state);
	}
}

static void another_record_inside_a_handshake_message_is_refused(void **state)
{
	size_t n = forge(&server, 22, "\4\0\0\11abc", 7, 0, wire_bytes), n_out;

	(void)state;
	assert_int_equal(open_all(&client, wire_bytes, n, NULL, &n_out), 0);
	expect_broken(&server, &client, 23, "x", 1, 0, TLS13_ALERT_UNEXPECTED_MESSAGE);
}

static void a_ticket_may_come_in_pieces(void **state)
{
	static const char ticket[] = "\4\0\0\11abcdefghi\4\0\0\2xy";
	size_t n = 0, n_out;

	(void)state;
	for (size_t i = 0; i < sizeof(ticket) - 1; i++)
		n += forge(&server, 22, ticket + i, 1, i % 3, wire_bytes + n);
	n += forge(&server, 23, "data", 4, 0, wire_bytes + n);
	assert_int_equal(open_all(&client, wire_bytes, n, NULL, &n_out), 0);
	assert_int_equal(n_out, 4);
	assert_int_equal(client.n_tickets, 2);
}

static void padding_of_every_length_is_stripped(void **state)
{
	static uint8_t out[TLS13_OPEN_ROOM];
	size_t n, n_out;

	(void)state;
	for (size_t padding = 0; padding <= 300; padding++) {
		n = forge(&client, 23, "hello", 5, padding, wire_bytes);
		assert_int_equal(open_all(&server, wire_bytes, n, out, &n_out), 0);
		assert_int_equal(n_out, 5);
		assert_memory_equal(out, "hello", 5);
	}
}

/* Of one record: alone, and filled up with padding to the most that there may be. */
static void every_record_length_opens(void **state)
{
	static uint8_t data[TLS13_PLAINTEXT_MAX], out[TLS13_OPEN_ROOM];
	size_t n, n_out;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 11 + 1);
	for (size_t len = 0; len <= sizeof(data); len++) {
		n = forge(&client, 23, data, len, len % 16 ? 0 : sizeof(data) - len, wire_bytes);
		assert_int_equal(open_all(&server, wire_bytes, n, out, &n_out), 0);
		assert_int_equal(n_out, len);
		assert_memory_equal(out, data, len);
	}
}

static void send_data(struct tls13 *from, struct tls13 *to, const char *text)
{
	struct iovec iov = { (void *)(uintptr_t)text, strlen(text) };
	uint8_t out[256];
	size_t n, n_out;

	assert_int_equal(tls13_seal(from, &iov, 1, wire_bytes, sizeof(wire_bytes), &n), 0);
	assert_int_equal(open_all(to, wire_bytes, n, out, &n_out), 0);
	assert_int_equal(n_out, strlen(text));
	assert_memory_equal(out, text, n_out);
}

/* In records of @piece bytes each. */
static void key_update_in(struct tls13 *from, struct tls13 *to, char request, size_t piece)
{
	char message[5] = { 24, 0, 0, 1, request };
	uint8_t next[TLS13_SECRET_MAX];
	size_t n = 0, n_out;

	for (size_t at = 0; at < sizeof(message); at += piece)
		n += forge(from, 22, message + at, MIN(piece, sizeof(message) - at), at, wire_bytes + n);
	assert_int_equal(open_all(to, wire_bytes, n, NULL, &n_out), 0);
	assert_int_equal(tls13_expand_label(from->suite, from->tx.secret, "traffic upd", next, 32), 0);
	memcpy(from->tx.secret, next, 32);
	assert_int_equal(tls13_expand_label(from->suite, next, "iv", from->tx.iv, 12), 0);
	assert_int_equal(tls13_expand_label(from->suite, next, "key", from->tx.key, 16), 0);
	from->tx.seq = 0;
	if (from->tx.expanded)
		from->aead->key_free(from->tx.expanded);
	from->tx.expanded = NULL;
}

static void key_update(struct tls13 *from, struct tls13 *to, char request)
{
	key_update_in(from, to, request, 5);
}

static void a_key_update_may_come_in_pieces(void **state)
{
	(void)state;
	for (size_t piece = 1; piece <= 5; piece++) {
		key_update_in(&client, &server, 1, piece);
		send_data(&client, &server, "there");
		send_data(&server, &client, "back");
		key_update_in(&server, &client, 0, piece);
		send_data(&server, &client, "back again");
	}
}

static void keys_are_updated_when_the_peer_asks(void **state)
{
	uint8_t before[TLS13_SECRET_MAX], out[64];
	size_t n, n_out;

	(void)state;
	send_data(&client, &server, "one");
	memcpy(before, server.tx.secret, sizeof(before));
	key_update(&client, &server, 1);
	key_update(&client, &server, 1);
	send_data(&client, &server, "two");
	assert_int_equal(tls13_pending(&server), TLS13_OVERHEAD + 5);	/* one answer for both */
	send_data(&server, &client, "three");			/* takes the answer along */
	assert_int_equal(tls13_pending(&server), 0);
	assert_memory_not_equal(before, server.tx.secret, 32);

	key_update(&client, &server, 0);
	assert_int_equal(tls13_pending(&server), 0);
	key_update(&client, &server, 1);
	assert_int_equal(tls13_take(&server, out, 5, &n), 0);
	assert_int_equal(n, 0);					/* no room for it yet */
	assert_int_equal(tls13_take(&server, out, sizeof(out), &n), 0);
	assert_int_equal(open_all(&client, out, n, NULL, &n_out), 0);
	send_data(&server, &client, "four");
	send_data(&client, &server, "five");
}

static void a_flood_of_key_updates_is_cut(void **state)
{
	(void)state;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 32; i++)
			key_update(&client, &server, 1);
		send_data(&client, &server, "work");
	}
	for (int i = 0; i < 32; i++)
		key_update(&client, &server, 0);
	server.update_owed = false;
	expect_broken(&client, &server, 22, "\30\0\0\1\0", 5, 0, TLS13_ALERT_UNEXPECTED_MESSAGE);
}

/* They are let through with data between them, but not for nothing. */
static void key_updates_are_work(void **state)
{
	uint32_t before;

	(void)state;
	send_data(&client, &server, "x");
	before = server.work;
	for (int i = 0; i < 100; i++) {
		key_update(&client, &server, 0);
		send_data(&client, &server, "x");
	}
	assert_int_equal(server.work - before, 100 * (2 + TLS13_UPDATE_WORK));
}

static void a_flood_of_empty_records_is_cut(void **state)
{
	size_t n, n_out;

	(void)state;
	for (int i = 0; i < 32; i++) {
		n = forge(&client, 23, "", 0, (size_t)i, wire_bytes);
		assert_int_equal(open_all(&server, wire_bytes, n, NULL, &n_out), 0);
	}
	expect_broken(&client, &server, 23, "", 0, 0, TLS13_ALERT_UNEXPECTED_MESSAGE);
}

static void our_own_key_is_updated_at_its_limit(void **state)
{
	static uint8_t data[TLS13_PLAINTEXT_MAX * 5];
	struct iovec iov = { data, sizeof(data) };
	size_t n, n_out;

	(void)state;
	client.tx_limit = 2;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(tls13_seal(&client, &iov, 1, wire_bytes, sizeof(wire_bytes), &n), 0);
		assert_int_equal(open_all(&server, wire_bytes, n, NULL, &n_out), 0);
		assert_int_equal(n_out, sizeof(data));
	}
	assert_true(client.tx.seq <= 2);
	assert_memory_equal(client.tx.secret, server.rx.secret, 32);
}

static void every_truncation_waits_for_more(void **state)
{
	uint8_t record[256];
	size_t n = unhex(CLIENT_DATA, record), len;

	(void)state;
	for (size_t i = 0; i < TLS13_HEADER_LEN; i++)
		assert_int_equal(tls13_record_len(&server, record, i, &len), TLS13_E_MORE);
	for (size_t i = TLS13_HEADER_LEN; i < n; i++) {
		assert_int_equal(tls13_record_len(&server, record, i, &len), 0);
		assert_int_equal(len, n);
	}
}

static void headers_that_are_wrong_are_refused(void **state)
{
	static const struct {
		uint8_t header[5];
		uint8_t alert;
	} table[] = {
		{ { 22, 3, 3, 0, 40 }, TLS13_ALERT_UNEXPECTED_MESSAGE },
		{ { 20, 3, 3, 0, 1 }, TLS13_ALERT_UNEXPECTED_MESSAGE },
		{ { 21, 3, 3, 0, 2 }, TLS13_ALERT_UNEXPECTED_MESSAGE },
		{ { 23, 2, 0, 0, 40 }, TLS13_ALERT_DECODE_ERROR },
		{ { 23, 3, 3, 0, 16 }, TLS13_ALERT_DECODE_ERROR },
		{ { 23, 3, 3, 0x41, 1 }, TLS13_ALERT_RECORD_OVERFLOW },
	};
	size_t len;

	for (size_t i = 0; i < ELEMENTS(table); i++) {
		assert_int_equal(tls13_record_len(&server, table[i].header, 5, &len), TLS13_E_BROKEN);
		assert_int_equal(server.alert, table[i].alert);
		teardown(state);
		setup(state);
	}
}

static void a_flipped_bit_is_bad_record_mac(void **state)
{
	uint8_t record[256], out[TLS13_OPEN_ROOM];
	size_t n = unhex(CLIENT_DATA, record), n_out;

	for (size_t i = TLS13_HEADER_LEN; i < n; i++) {
		record[i] ^= 0x10;
		assert_int_equal(tls13_open(&server, record, n, out, &n_out), TLS13_E_BROKEN);
		assert_int_equal(server.alert, TLS13_ALERT_BAD_RECORD_MAC);
		assert_int_equal(n_out, 0);
		record[i] ^= 0x10;
		teardown(state);
		setup(state);
	}
}

static void opening_in_place_works(void **state)
{
	uint8_t record[256];
	size_t n = unhex(CLIENT_DATA, record), n_out;

	(void)state;
	assert_int_equal(tls13_open(&server, record, n, record + TLS13_HEADER_LEN, &n_out), 0);
	assert_int_equal(n_out, 50);
	assert_int_equal(record[TLS13_HEADER_LEN + 49], 49);
}

static void a_rested_connection_goes_on(void **state)
{
	(void)state;
	send_data(&client, &server, "before");
	tls13_rest(&client);
	tls13_rest(&server);
	assert_null(client.tx.expanded);
	send_data(&client, &server, "after");
	send_data(&server, &client, "back");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(keys_are_those_of_rfc_8448, setup, teardown),
		cmocka_unit_test_setup_teardown(records_of_rfc_8448_open, setup, teardown),
		cmocka_unit_test_setup_teardown(records_of_rfc_8448_are_what_we_make, setup, teardown),
		cmocka_unit_test(handshake_keys_are_those_of_rfc_8448),
		cmocka_unit_test(handshake_records_of_rfc_8448_go_both_ways),
		cmocka_unit_test_setup_teardown(handshake_records_of_rfc_8448_are_refused_after_the_handshake, setup, teardown),
		cmocka_unit_test(every_length_goes_through),
		cmocka_unit_test_setup_teardown(what_must_not_come_is_answered_by_its_alert, setup, teardown),
		cmocka_unit_test_setup_teardown(another_record_inside_a_handshake_message_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_ticket_may_come_in_pieces, setup, teardown),
		cmocka_unit_test_setup_teardown(padding_of_every_length_is_stripped, setup, teardown),
		cmocka_unit_test_setup_teardown(every_record_length_opens, setup, teardown),
		cmocka_unit_test_setup_teardown(a_key_update_may_come_in_pieces, setup, teardown),
		cmocka_unit_test_setup_teardown(keys_are_updated_when_the_peer_asks, setup, teardown),
		cmocka_unit_test_setup_teardown(a_flood_of_key_updates_is_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(key_updates_are_work, setup, teardown),
		cmocka_unit_test_setup_teardown(a_flood_of_empty_records_is_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(our_own_key_is_updated_at_its_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(every_truncation_waits_for_more, setup, teardown),
		cmocka_unit_test_setup_teardown(headers_that_are_wrong_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_flipped_bit_is_bad_record_mac, setup, teardown),
		cmocka_unit_test_setup_teardown(opening_in_place_works, setup, teardown),
		cmocka_unit_test_setup_teardown(a_rested_connection_goes_on, setup, teardown),
	};

	_Static_assert(sizeof(struct tls13) <= 320, "an idle connection is small");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
