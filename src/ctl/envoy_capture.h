#pragma once
#include "base/loop.h"
#include "ctl/envoy_bootstrap.h"
#include "ctl/envoy_dir.h"
#include "mesh/channel.h"

/*
 * The listener for captured connections: follows the workload API of the
 * controller and writes Envoy's lds.json and cds.json, a filter chain for each
 * address of the mesh. What is no address of the mesh is passed through.
 */
struct envoy_capture;

/* Writes the files (nothing known yet: all is passed through) and starts to follow. @config and @dir are borrowed. */
MUST_CHECK int envoy_capture_new(struct loop *loop, struct channel *channel, const struct envoy_config *config, struct envoy_dir *dir,
				 struct envoy_capture **ret_capture, struct diag *reterr_diag);
struct envoy_capture *envoy_capture_free(struct envoy_capture *c);
