# SPDX-License-Identifier: Apache-2.0
# pubsubpull.rb: tells PostgreSQL which HTTP request the statements of a Rack service belong to.
#
# Two changes in a service on Rack and pg behind mod_pubsubpull:
#
#   use PubSubPull::Middleware                                # in config.ru
#   POOL.with { |db| PubSubPull.session(db) { db.exec(…) } }  # where a connection is taken for a request
#
# Inside, the setting pubsubpull.request of the session holds the envelope of the current request; afterwards the session
# is as it was. See README.md beside this file.
require "pg"

module PubSubPull
  KEY = :pubsubpull_request # local to the fiber: what is not passed on belongs to no request, rather than to a wrong one
  SET = "SELECT set_config('pubsubpull.request', $1, false)"

  # Takes the envelope that httpd put into the request: a variable of FastCGI, or a header.
  class Middleware
    def initialize(app)
      @app = app
    end

    def call(env)
      envelope = env["PUBSUBPULL_REQUEST"] || env["HTTP_PUBSUBPULL_REQUEST"] || ""
      PubSubPull.request(envelope) { @app.call(env) }
    end
  end

  # The envelope of the current request, or an empty string.
  def self.current
    Thread.current[KEY] || ""
  end

  # What the block does belongs to this request: for jobs that go on with what a request began and were given its current.
  def self.request(envelope)
    before = Thread.current[KEY]
    Thread.current[KEY] = envelope
    yield
  ensure
    Thread.current[KEY] = before
  end

  # The block's statements on this connection belong to the current request.
  def self.session(connection)
    envelope = current
    return yield if envelope.empty? || connection.instance_variable_get(:@pubsubpull)

    connection.exec_params(SET, [envelope])
    connection.instance_variable_set(:@pubsubpull, true) # a block inside this one has nothing to do
    begin
      yield
    ensure
      forget(connection)
    end
  end

  # A connection that stays open goes back as it came. One that is left in the middle of something is opened anew.
  def self.forget(connection)
    connection.remove_instance_variable(:@pubsubpull)
    case connection.transaction_status
    when PG::PQTRANS_IDLE then connection.exec_params(SET, [""])
    when PG::PQTRANS_UNKNOWN then nil # broken: there is no session any more
    else connection.reset
    end
  end
  private_class_method :forget
end
