#include "proto/grpc_frame.h"

#include <errno.h>
#include <string.h>

#include "lib/unit.h"

static const uint8_t FRAME[] = { 0, 0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0 };

static void a_frame_is_taken_off_the_front(void **state)
{
	uint8_t header[GRPC_FRAME_HEADER_LEN];
	struct grpc_frame f;

	(void)state;
	assert_int_equal(grpc_frame_decode(FRAME, sizeof(FRAME), 3, &f), 0);
	assert_int_equal(f.len, 3);
	assert_int_equal(f.size, 8);
	assert_memory_equal(f.message, "abc", 3);
	grpc_frame_header(3, header);
	assert_memory_equal(header, FRAME, sizeof(header));
	grpc_frame_header(0x01020304, header);
	assert_memory_equal(header, "\0\1\2\3\4", 5);
}

static void a_truncated_frame_asks_for_more(void **state)
{
	struct grpc_frame f;

	(void)state;
	for (size_t n = 0; n < 8; n++)
		assert_int_equal(grpc_frame_decode(FRAME, n, 3, &f), GRPC_FRAME_E_MORE);
}

static void what_cannot_be_taken_is_said_early(void **state)
{
	struct grpc_frame f;

	(void)state;
	assert_int_equal(grpc_frame_decode(FRAME, 5, 2, &f), GRPC_FRAME_E_TOO_LARGE);
	assert_int_equal(grpc_frame_decode("\0\xff\xff\xff\xff", 5, 1 << 20, &f), GRPC_FRAME_E_TOO_LARGE);
	assert_int_equal(grpc_frame_decode("\1\0\0\0\0", 5, 9, &f), GRPC_FRAME_E_COMPRESSED);
	assert_int_equal(grpc_frame_decode("\2", 1, 9, &f), GRPC_FRAME_E_MALFORMED);
}

static void messages_survive_percent_encoding(void **state)
{
	char out[64], back[64], tiny[6];

	(void)state;
	grpc_message_encode("100% \n\xc3\xa4~", out, sizeof(out));
	assert_string_equal(out, "100%25 %0A%C3%A4~");
	grpc_message_decode(out, strlen(out), back, sizeof(back));
	assert_string_equal(back, "100% \n\xc3\xa4~");
	grpc_message_encode("a%%%", tiny, sizeof(tiny));
	assert_string_equal(tiny, "a%25");		/* whole characters only */
	grpc_message_decode("%4", 2, back, sizeof(back));
	assert_string_equal(back, "%4");
	grpc_message_decode("%zz%00x", 7, back, sizeof(back));
	assert_string_equal(back, "%zz x");
	grpc_message_decode("abcdefgh", 8, tiny, sizeof(tiny));
	assert_string_equal(tiny, "abcde");
}

static void timeouts_have_units(void **state)
{
	static const struct { const char *text; uint32_t ms; } good[] = {
		{ "1H", 3600000 }, { "2M", 120000 }, { "3S", 3000 }, { "100m", 100 }, { "1500u", 2 }, { "1n", 1 }, { "0m", 0 },
		{ "99999999H", UINT32_MAX },
	};
	static const char *const bad[] = { "", "1", "m", "1s", "123456789m", "-1m", "1.5S", " 1m", "1m ", "999999999" };
	uint32_t ms;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(good); i++) {
		assert_int_equal(grpc_timeout_decode(good[i].text, strlen(good[i].text), &ms), 0);
		assert_int_equal(ms, good[i].ms);
	}
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(grpc_timeout_decode(bad[i], strlen(bad[i]), &ms), -EINVAL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_frame_is_taken_off_the_front),
		cmocka_unit_test(a_truncated_frame_asks_for_more),
		cmocka_unit_test(what_cannot_be_taken_is_said_early),
		cmocka_unit_test(messages_survive_percent_encoding),
		cmocka_unit_test(timeouts_have_units),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
