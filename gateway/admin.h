/* The admin listener: health, metrics, what runs, reload. Control thread only. */
#ifndef GATEWAY_ADMIN_H
#define GATEWAY_ADMIN_H

struct admin;
struct gateway;

/* Serve @listen_fd (which stays the caller's) on the gateway's loop. NULL when the kernel refuses. */
struct admin *admin_create(struct gateway *gateway, int listen_fd);
void admin_destroy(struct admin **admin);

#endif
