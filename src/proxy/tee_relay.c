/*
 * Tee messages to the agent.
 */
#include "proxy/tee_relay.h"

#include <string.h>

struct gap_key {
	uint64_t id;
	uint64_t from_server;
};

struct gap {
	struct map_link link;
	struct gap_key key;
	uint64_t lost;
};

void tee_relay_init(struct tee_relay *t)
{
	*t = (struct tee_relay){};
	map_init(&t->gaps);
}

static void gap_drop(struct tee_relay *t, struct gap *g)
{
	map_remove(&t->gaps, &g->link);
	free(g);
}

void tee_relay_deinit(struct tee_relay *t)
{
	map_for_each(l, &t->gaps)
		gap_drop(t, container_of(l, struct gap, link));
	map_deinit(&t->gaps);
}

static struct gap *gap_find(const struct tee_relay *t, const struct flow_tee *piece)
{
	const struct gap_key key = { piece->id, piece->from_server };
	struct map_link *l = map_find(&t->gaps, &key, sizeof(key));

	return l ? container_of(l, struct gap, link) : NULL;
}

static int send_piece(struct agent_link *link, const struct flow_tee *piece, uint64_t lost)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__Tee tee = OUTRIGGER__IPC__TEE__INIT;
	char client[IP_PORT_TEXT_LEN], server[IP_PORT_TEXT_LEN];

	ip_port_format(&piece->client, client);
	ip_port_format(&piece->server, server);
	tee.vm_id = piece->vm->id;
	tee.conn_id = piece->id;
	tee.from_server = piece->from_server;
	tee.client = client;
	tee.server = server;
	tee.data = (ProtobufCBinaryData){ piece->len, (uint8_t *)(uintptr_t)piece->data };
	tee.open = piece->open;
	tee.fin = piece->fin;
	tee.lost = lost;
	tee.mono_ns = piece->mono_ns;
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_TEE;
	m.tee = &tee;
	return agent_link_send(link, &m, true);
}

void tee_relay_pass(struct tee_relay *t, struct agent_link *link, const struct flow_tee *piece)
{
	struct gap *g = gap_find(t, piece);
	uint64_t lost = piece->lost + (g ? g->lost : 0);

	if (send_piece(link, piece, lost) == 0) {
		if (g)
			gap_drop(t, g);
		return;
	}
	t->lost += piece->len;
	if (!g && t->gaps.n < TEE_GAPS_MAX) {
		g = calloc(1, sizeof(*g));
		if (!g)
			return;
		g->key = (struct gap_key){ piece->id, piece->from_server };
		if (map_add(&t->gaps, &g->link, &g->key, sizeof(g->key)) < 0) {
			free(g);
			return;
		}
	}
	if (g)
		g->lost = lost + piece->len;
	if (g && piece->fin)
		gap_drop(t, g);		/* nothing will come after it */
}
