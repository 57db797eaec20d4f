-- Commit a batch of changes, whole, and tell everybody who follows.
--
-- KEYS  epoch, number, batches (stream), nodes, inventories, registered, lists (hashes), leases (sorted set)
-- ARGV  the epoch that the writer knows, the batch (msgpack), how many batches the stream keeps
--
-- nodes        node -> {a address, z zone, l load, s served, e when its lease ends}, as msgpack
-- inventories  node -> what its heartbeats list, {{model, facts}, ...}, as msgpack
-- registered   node "\n" model -> facts of what was registered; whatever is in here is in no inventory
-- lists        node -> the models that it has in `registered`, as msgpack
-- leases       "n\n" node, "r\n" node "\n" model, scored by when they end
--
-- Returns the batch's number, and the time.

local EPOCH, NUMBER, BATCHES, NODES, INVENTORIES, REGISTERED, LISTS, LEASES = unpack(KEYS)

if redis.call('GET', EPOCH) ~= ARGV[1] then
  return redis.error_reply('EPOCH the registry has another one')
end

local function get(key, field)
  local packed = redis.call('HGET', key, field)
  return packed and cmsgpack.unpack(packed) or {}
end

local function put(key, field, list)
  if #list == 0 then
    redis.call('HDEL', key, field)
  else
    redis.call('HSET', key, field, cmsgpack.pack(list))
  end
end

local function select(list, is_kept)
  local kept = {}
  for _, one in ipairs(list) do
    if is_kept(one) then kept[#kept + 1] = one end
  end
  return kept
end

local now = tonumber(redis.call('TIME')[1])

-- What a node had under a lease that is over: a new one must not bring it back.
local function end_lease(node)
  local it = get(NODES, node)
  if not it.e or it.e > now then return it end
  redis.call('HDEL', INVENTORIES, node)
  it.e = nil
  return redis.call('HEXISTS', LISTS, node) == 1 and it or {}
end

local function place(change)
  local it = end_lease(change.n)
  it.a, it.z, it.l, it.s = change.a or it.a, change.z or it.z, it.l or 0, it.s or 0  -- never empty: that is a list
  if change.k == 'b' then
    it.l, it.s, it.e = change.l, change.s, change.e
  end
  redis.call('HSET', NODES, change.n, cmsgpack.pack(it))
end

local function take_out_of_inventory(node, model)
  local before = get(INVENTORIES, node)
  local after = select(before, function(pair) return pair[1] ~= model end)
  if #after < #before then put(INVENTORIES, node, after) end
end

local function forget_registered(node, model)
  redis.call('HDEL', REGISTERED, node .. '\n' .. model)
  redis.call('ZREM', LEASES, 'r\n' .. node .. '\n' .. model)
end

local function beat(change)
  place(change)
  redis.call('ZADD', LEASES, change.e, 'n\n' .. change.n)
  if not change.i then return end
  put(INVENTORIES, change.n, change.i)
  local registered = get(LISTS, change.n)
  if #registered == 0 then return end
  local is_listed = {}
  for _, pair in ipairs(change.i) do is_listed[pair[1]] = true end
  for _, model in ipairs(registered) do
    if is_listed[model] then forget_registered(change.n, model) end
  end
  put(LISTS, change.n, select(registered, function(model) return not is_listed[model] end))
end

local function register(change)
  place(change)
  take_out_of_inventory(change.n, change.m)
  local list = select(get(LISTS, change.n), function(model) return model ~= change.m end)
  list[#list + 1] = change.m
  put(LISTS, change.n, list)
  redis.call('HSET', REGISTERED, change.n .. '\n' .. change.m, change.h)
  local lease = 'r\n' .. change.n .. '\n' .. change.m
  if change.e then redis.call('ZADD', LEASES, change.e, lease) else redis.call('ZREM', LEASES, lease) end
end

local function withdraw(change)
  take_out_of_inventory(change.n, change.m)
  forget_registered(change.n, change.m)
  put(LISTS, change.n, select(get(LISTS, change.n), function(model) return model ~= change.m end))
  local is_left = redis.call('ZSCORE', LEASES, 'n\n' .. change.n) or redis.call('HEXISTS', LISTS, change.n) == 1
  if not is_left then redis.call('HDEL', NODES, change.n) end
end

local function leave(change)
  for _, model in ipairs(get(LISTS, change.n)) do forget_registered(change.n, model) end
  for _, key in ipairs({NODES, INVENTORIES, LISTS}) do redis.call('HDEL', key, change.n) end
  redis.call('ZREM', LEASES, 'n\n' .. change.n)
end

local apply = {b = beat, r = register, w = withdraw, l = leave}
for _, change in ipairs(cmsgpack.unpack(ARGV[2])) do apply[change.k](change) end

local number = redis.call('INCR', NUMBER)
redis.call('XADD', BATCHES, 'MAXLEN', '~', ARGV[3], number .. '-0', 'b', ARGV[2])
local time = redis.call('TIME')
return {number, time[1], time[2]}
