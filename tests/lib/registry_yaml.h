#pragma once

/* A configuration that a registry is tried with; a list item of "workloads" may follow. */
#define REGISTRY_YAML \
	"trust_domain: t.mesh\n" \
	"onboarding:\n" \
	"- {name: off, match: {guest_name: off-*}, mode: off}\n" \
	"- {name: vms, match: {nic: nic-*, addresses: [10.0.0.0/24]}, mode: strict, namespace: shop, service_account: vm, services: [a, b, big]}\n" \
	"- {name: clients, match: {guest_name: client-*}, mode: permissive, namespace: shop, service_account: client, client: true}\n" \
	"services:\n" \
	"- {name: b, namespace: shop, ports: [{port: 80, protocol: http}, {port: 90, protocol: grpc}]}\n" \
	"workloads:\n"
