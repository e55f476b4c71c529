/*
 * A bad wire for test hosts on kernels without netem: of every 32 packets that
 * pass the hook one is lost, which one is left to chance.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

SEC("tc/loss")
int wire_loss(struct __sk_buff *skb)
{
	(void)skb;
	return bpf_get_prandom_u32() % 32 ? TC_ACT_OK : TC_ACT_SHOT;
}

char test_license[] SEC("license") = "Dual BSD/GPL";
