#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# follower.py: keeps an exact copy of a published table over HTTP: follower.py URL-of-the-table pages|lines|poll|events user file
import base64, http.client, json, re, signal, sys, time, urllib.error, urllib.request
table, way, user, file = sys.argv[1:]
auth = 'Basic ' + base64.b64encode(f'{user}:{user}'.encode()).decode()
columns, copy, changes = [], {}, None    # of the key; the rows by key; the URL of what is new
def get(url, accept='application/json'):
    return urllib.request.urlopen(urllib.request.Request(url, headers={'Authorization': auth, 'Accept': accept}), timeout=90)
def link(response, rel): return re.search(f'<([^>]*)>; rel="{rel}"', ', '.join(response.headers.get_all('Link')))[1]
def key(row): return json.dumps([row[column] for column in columns])
def apply(change):
    if change['type'] == 'truncate': copy.clear()
    if change['old']: copy.pop(key(change['old']), None)
    if change['new']: copy[key(change['new'])] = change['new']
def start(url):                          # all rows, and where changes follow
    if way == 'lines':
        response = get(url, 'application/x-ndjson')
        return {key(row): row for row in map(json.loads, response)}, link(response, 'changes')
    rows = {}
    while url:
        page = json.load(get(url))
        rows.update((key(row), row) for row in page['rows'])
        url = page['next']
    return rows, page['changes']
def follow(way):                         # returns the URL to go on with, and whether there is more already
    if way == 'lines':
        response = get(changes, 'application/x-ndjson')
        for line in response.read().splitlines(): apply(json.loads(line))
        return link(response, 'next'), False
    if way == 'events':
        for line in get(changes, 'text/event-stream'):
            if line.startswith(b'data: '):
                apply(json.loads(line[6:]))
            elif line.startswith(b'id: '):
                place = re.sub('since=[^&]*', 'since=' + line[4:-1].decode(), changes)
        return place, True
    page = json.load(get(changes + ('&wait=5' if way == 'poll' else '')))
    for change in page['changes']: apply(change)
    return page['next'].replace('&wait=5', ''), page['more'] or way == 'poll'
def step(way):                           # returns whether there is more already
    global columns, copy, changes
    try:
        if not changes:
            columns = json.load(get(table))['key']
            copy, changes = start(f'{table}/rows/')
        changes, more = follow(way)
        return more
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, 'code', 503) == 410:
            changes = None               # the log does not reach back so far any more: all again
        elif getattr(error, 'code', 503) < 500:
            raise
        return not time.sleep(0.1)       # broken off: again from the last place known
def stop(*_):                            # catches up and says what is there
    while step('pages'): pass
    sys.exit(json.dump(list(copy.values()), open(file, 'w')))
signal.signal(signal.SIGTERM, stop)
while True: time.sleep(0 if step(way) else 0.05)
