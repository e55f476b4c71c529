#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Service instances as libraries write them into ZooKeeper: Curator
 * x-discovery, Spring Cloud, Dubbo (interface and application level), nerve,
 * serversets, Kafka's brokers, plain JSON, and host:port as data or as name.
 *
 * ZooKeeper is also used for locks, elections and configuration: a node is an
 * instance only when its path or data say where it can be reached.
 */
enum { ZK_INSTANCE_MAX_META = 64, ZK_INSTANCE_MAX_NAME = 512 };

enum zk_instance_health { ZK_HEALTH_UNKNOWN, ZK_HEALTH_UP, ZK_HEALTH_DOWN };

struct zk_instance {
	char service[ZK_INSTANCE_MAX_NAME];	/* the service's directory, without the likes of "providers" */
	char id[ZK_INSTANCE_MAX_NAME];		/* the id in the data, else the node's name */
	char address[ZK_INSTANCE_MAX_NAME];	/* address or host name; "" when not said */
	uint16_t port;				/* 0: not said */
	char scheme[32];			/* "dubbo", "tri", "http"; "" when not said */
	enum zk_instance_health health;
	bool lasting;				/* it says of itself that it stays without a session (Curator STATIC, ...) */
	const char *keys[ZK_INSTANCE_MAX_META];
	char *values[ZK_INSTANCE_MAX_META];	/* owned */
	size_t n_meta;
	json_t *json;				/* owned; keys may point into it */
	char *url;				/* owned, likewise */
};

/*
 * What the node @path with @data says. False: it is no instance. On true,
 * zk_instance_deinit() is to be called.
 */
bool zk_instance_read(const char *path, const void *data, size_t len, struct zk_instance *ret_i);
void zk_instance_deinit(struct zk_instance *i);

/* By the name alone, as in a list of children: Dubbo's URLs, host:port. */
bool zk_instance_read_name(const char *path, struct zk_instance *ret_i);
/* A Dubbo consumer's node: the interface that it asks for. */
bool zk_instance_read_consumer(const char *path, char ret_service[static ZK_INSTANCE_MAX_NAME]);

/* The service whose instances are the children of @dir. */
void zk_dir_service(const char *dir, char ret_service[static ZK_INSTANCE_MAX_NAME]);
/* Is @dir by its path alone one that holds a service's instances, as in /services/orders? */
bool zk_dir_is_service(const char *dir);
/* Dubbo's other directories beside providers, which are lists of no service. */
bool zk_dir_is_dubbo_other(const char *dir);
/* Undoes percent-encoding in place; what is no proper escape stays, a zero byte ends it. */
void zk_unescape(char *s);
/* A node of a lock, an election and the like, by the names that the recipes of Curator and kazoo give them. */
bool zk_path_is_recipe(const char *path);
/* The directory of @path, "" for that of a node at the top. */
void zk_path_dir(const char *path, char *ret_dir, size_t size);
