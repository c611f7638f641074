-- SPDX-License-Identifier: Apache-2.0
-- items.lua: a handler of mod_lua on mod_dbd that knows nothing of mod_pubsubpull (see PspTest/Channel.pm).

local function must(value, why) -- as assert, whose message may not be nil in mod_lua
    return value or error(tostring(why), 2)
end

local function run(db, r, statement, ...)
    local prepared = must(db:prepare(r, statement))
    must(prepared:query(...))
end

local function add(db, r)
    run(db, r, "INSERT INTO item (name) VALUES (%s)", r:parseargs().name)
end

local function transaction(db, r, ending)
    run(db, r, "BEGIN")
    add(db, r)
    if ending then run(db, r, ending) end
end

local resources = {
    ["/items"] = function(db, r)
        add(db, r)
        db:close()
    end,
    ["/items/twice"] = function(db, r) -- and leaves it to the collector to close the connection
        transaction(db, r, "COMMIT")
        transaction(db, r, "COMMIT")
    end,
    ["/items/undone"] = function(db, r)
        transaction(db, r, "ROLLBACK")
        add(db, r)
        db:close()
    end,
    ["/items/failed"] = function(db, r) -- and forgets the transaction
        transaction(db, r)
        db:close()
        return 500
    end,
    ["/items/kept"] = function(db, r) -- a connection that outlives the request, where LuaScope lets it
        kept = db
        add(db, r)
    end,
}

function handle(r)
    r.content_type = "text/plain"
    local db = kept or must(r:dbacquire())
    local status = resources[r.uri:gsub("^/%a+", "")](db, r) or 201
    r.status = status
    return status == 500 and 500 or apache2.OK
end
