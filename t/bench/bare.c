/* SPDX-License-Identifier: Apache-2.0 */
/* bare.c: what libcurl's multi interface can do by itself: count PUTs of a body, so many at a time, nothing else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

static size_t discard(char *data, size_t size, size_t n, void *baton)
{
    (void)data;
    (void)baton;
    return size * n;
}

static CURL *make(const char *url, const char *body, struct curl_slist *headers)
{
    CURL *easy = curl_easy_init();

    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, "PUT");
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
    return easy;
}

int main(int argc, char **argv)
{
    const char *body;
    long count, concurrency, started = 0, done = 0, failed = 0;
    struct curl_slist *headers = NULL;
    CURLM *multi;

    if (argc != 5) {
        fprintf(stderr, "usage: bare url count concurrency body\n");
        return 2;
    }
    count = atol(argv[2]);
    concurrency = atol(argv[3]);
    body = argv[4];
    headers = curl_slist_append(headers, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    curl_global_init(CURL_GLOBAL_ALL);
    multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, concurrency);
    for (; started < concurrency && started < count; started++) {
        curl_multi_add_handle(multi, make(argv[1], body, headers));
    }
    while (done < count) {
        int running, left;
        CURLMsg *message;

        curl_multi_perform(multi, &running);
        while ((message = curl_multi_info_read(multi, &left))) {
            CURL *easy = message->easy_handle;
            long status = 0;

            curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
            failed += message->data.result != CURLE_OK || status / 100 != 2;
            done++;
            curl_multi_remove_handle(multi, easy);
            if (started < count) {
                started++;
                curl_multi_add_handle(multi, easy);
            }
            else {
                curl_easy_cleanup(easy);
            }
        }
        if (done < count) {
            curl_multi_poll(multi, NULL, 0, 1000, NULL);
        }
    }
    curl_multi_cleanup(multi);
    return failed ? 1 : 0;
}
