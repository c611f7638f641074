/* SPDX-License-Identifier: Apache-2.0 */
/* address.c: which addresses a notification may be sent to: not our own host, network or cloud. */
#include "notify/wire.h"

#include <string.h>

#include <apr_network_io.h>

typedef struct net4_t {
    unsigned char net[4];
    int bits;
} net4_t;

typedef struct net6_t {
    unsigned char net[16];
    int bits;
    int inner; /* where an IPv4 address is embedded, 0: nowhere, and the whole net is denied */
} net6_t;

static const net4_t denied4[] = {
    {{0, 0, 0, 0}, 8},       /* this host */
    {{10, 0, 0, 0}, 8},      /* private */
    {{100, 64, 0, 0}, 10},   /* carrier-grade NAT */
    {{127, 0, 0, 0}, 8},     /* loopback */
    {{169, 254, 0, 0}, 16},  /* link-local, metadata services */
    {{172, 16, 0, 0}, 12},   /* private */
    {{192, 0, 0, 0}, 24},    /* protocol assignments */
    {{192, 0, 2, 0}, 24},    /* documentation */
    {{192, 88, 99, 0}, 24},  /* 6to4 relays */
    {{192, 168, 0, 0}, 16},  /* private */
    {{198, 18, 0, 0}, 15},   /* benchmarks */
    {{198, 51, 100, 0}, 24}, /* documentation */
    {{203, 0, 113, 0}, 24},  /* documentation */
    {{224, 0, 0, 0}, 3},     /* multicast, reserved, broadcast */
};

static const net6_t special6[] = {
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 96, 12}, /* IPv4-mapped */
    {{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0}, 96, 12}, /* IPv4-translated */
    {{0, 0x64, 0xff, 0x9b}, 96, 12},                      /* NAT64 */
    {{0x20, 0x02}, 16, 2},                                /* 6to4 */
    {{0}, 96, 0},                         /* unspecified, loopback, IPv4-compatible */
    {{0, 0x64, 0xff, 0x9b, 0, 1}, 48, 0}, /* local NAT64 */
    {{0x01, 0x00}, 64, 0},                /* discard */
    {{0x20, 0x01, 0, 0}, 23, 0},          /* protocol assignments, Teredo */
    {{0x20, 0x01, 0x0d, 0xb8}, 32, 0},    /* documentation */
    {{0x3f, 0xff}, 20, 0},                /* documentation */
    {{0x5f, 0x00}, 16, 0},                /* segment routing */
    {{0xfc, 0}, 7, 0},                    /* private */
    {{0xfe, 0x80}, 10, 0},                /* link-local */
    {{0xfe, 0xc0}, 10, 0},                /* site-local */
    {{0xff, 0}, 8, 0},                    /* multicast */
};

static int within(const unsigned char *address, const unsigned char *net, int bits)
{
    int bytes = bits / 8, rest = bits % 8;

    if (memcmp(address, net, (size_t)bytes) != 0) {
        return 0;
    }
    return rest == 0 || ((address[bytes] ^ net[bytes]) & (0xff << (8 - rest) & 0xff)) == 0;
}

static int denied_by_default4(const unsigned char *address)
{
    apr_size_t i;

    for (i = 0; i < sizeof denied4 / sizeof *denied4; i++) {
        if (within(address, denied4[i].net, denied4[i].bits)) {
            return 1;
        }
    }
    return 0;
}

/* What is special about an IPv6 address, or NULL. */
static const net6_t *special(const unsigned char *address)
{
    apr_size_t i;

    for (i = 0; i < sizeof special6 / sizeof *special6; i++) {
        if (within(address, special6[i].net, special6[i].bits)) {
            return &special6[i];
        }
    }
    return NULL;
}

static int listed(const apr_array_header_t *nets, int family, const unsigned char *address)
{
    apr_sockaddr_t sa;
    int i;

    memset(&sa, 0, sizeof sa);
    sa.family = family;
    if (family == AF_INET) {
        memcpy(&sa.sa.sin.sin_addr, address, 4);
        sa.ipaddr_ptr = &sa.sa.sin.sin_addr;
    }
    else {
        memcpy(&sa.sa.sin6.sin6_addr, address, 16);
        sa.ipaddr_ptr = &sa.sa.sin6.sin6_addr;
    }
    for (i = 0; nets && i < nets->nelts; i++) {
        if (apr_ipsubnet_test(APR_ARRAY_IDX(nets, i, apr_ipsubnet_t *), &sa)) {
            return 1;
        }
    }
    return 0;
}

static int allowed4(const psp_server_config_t *config, const unsigned char *address)
{
    if (listed(config->callback_deny, AF_INET, address)) {
        return 0;
    }
    return listed(config->callback_allow, AF_INET, address) || !denied_by_default4(address);
}

static int allowed6(const psp_server_config_t *config, const unsigned char *address)
{
    const net6_t *what = special(address);

    if (listed(config->callback_deny, AF_INET6, address)) {
        return 0;
    }
    if (what && what->inner) { /* it ends at that IPv4 address, so that one decides */
        return allowed4(config, address + what->inner);
    }
    return !what || listed(config->callback_allow, AF_INET6, address);
}

int psp_address_allowed(const psp_server_config_t *config, const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;

        return allowed4(config, (const unsigned char *)&in->sin_addr);
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)address;

        return allowed6(config, (const unsigned char *)&in6->sin6_addr);
    }
    return 0;
}
