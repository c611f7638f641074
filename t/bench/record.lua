-- SPDX-License-Identifier: Apache-2.0
-- record.lua: what one would write without the module: a hook that inserts each request through mod_dbd before it is served.

function record(r)
    local db = assert(r:dbacquire())
    local insert = assert(db:prepared(r, "record"))
    assert(insert:query(r.method, r.hostname, r.uri, r.useragent_ip))
    db:close()
    return apache2.DECLINED
end
