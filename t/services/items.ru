# SPDX-License-Identifier: Apache-2.0
# items.ru: a service with Rack and pg (see PspTest/Channel.pm).
require "connection_pool"
require "pg"
require "pubsubpull"
require "rack"

POOL = ConnectionPool.new(size: 2) { PG.connect }
INSERT = "INSERT INTO item (name) VALUES ($1)".freeze

def with_db
  POOL.with { |db| PubSubPull.session(db) { yield db } }
end

def undone
  with_db do |db|
    db.transaction do
      yield db
      raise ArgumentError, "on purpose"
    end
  end
rescue ArgumentError
  nil
end

SERVICE = lambda do |env|
  request = Rack::Request.new(env)
  add = ->(db) { db.exec_params(INSERT, [request.params["name"]]) }
  case request.path_info
  when "/items" then with_db(&add)
  when "/items/twice" then 2.times { with_db { |db| db.transaction { with_db(&add) } } }
  when "/items/undone"
    undone(&add)
    with_db(&add)
  when "/items/failed"
    with_db do |db|
      db.exec("BEGIN")
      add.(db)
      next [500, {}, ["and forgot the transaction"]] # leaves the block only
    end
    return [500, {}, ["on purpose"]]
  when "/session"
    setting = with_db { |db| db.exec("SELECT coalesce(current_setting('pubsubpull.request', true), '')").getvalue(0, 0) }
    return [200, { "content-type" => "text/plain" }, [setting]]
  end
  [201, {}, []]
end

use PubSubPull::Middleware
run SERVICE
