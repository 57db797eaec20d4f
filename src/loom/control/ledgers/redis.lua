-- Commit a batch of changes, whole or not at all, and add it to the stream.
--
-- KEYS  epoch, number, batches (stream), nodes, inventories, registered, lists (hashes), leases (sorted set)
-- ARGV  the epoch that the writer knows, the batch (msgpack), how many batches the stream keeps, the writer's name
--
-- nodes        node -> {a address, z zone, l load, s served, e when its lease ends}, as msgpack
-- inventories  node -> what its heartbeats list, {{model, facts}, ...}, as msgpack
-- registered   node "\n" model -> facts of a registration; a model in here is in no inventory
-- lists        node -> the models that it has in `registered`, as msgpack
-- leases       "n\n" node, "r\n" node "\n" model, scored by when they end
--
-- Returns the batch's number, and the time.

local EPOCH, NUMBER, BATCHES, NODES, INVENTORIES, REGISTERED, LISTS, LEASES = unpack(KEYS)

if redis.call('GET', EPOCH) ~= ARGV[1] then
  return redis.error_reply('EPOCH the registry has another one')
end

-- A script that fails is not undone. So all steps that can fail (a key is of another type, the batch is no msgpack, no
-- memory, the stream is ahead) come before the first change of a fact. An empty batch tests whether others would be kept.
for _, hash in ipairs({NODES, INVENTORIES, REGISTERED, LISTS}) do redis.call('HLEN', hash) end
redis.call('ZCARD', LEASES)
local changes = cmsgpack.unpack(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local number = redis.call('INCR', NUMBER)
redis.call('XADD', BATCHES, 'MAXLEN', '~', ARGV[3], number .. '-0', 'b', ARGV[2], 'e', ARGV[1], 'w', ARGV[4])

local function read(key, node)
  local packed = redis.call('HGET', key, node)
  return packed and cmsgpack.unpack(packed)
end

local function write(key, node, list)
  if #list == 0 then
    redis.call('HDEL', key, node)
  else
    redis.call('HSET', key, node, cmsgpack.pack(list))
  end
end

-- The nodes of the batch: read at first need and written once, in the end, because a batch may have two thousand changes of
-- one node with four thousand models.
--
-- place       as in `nodes`
-- inventory   the models that its heartbeats list, if already read
-- withdrawn   model -> true: no longer in the inventory
-- registered  model -> true, as in `lists`, if already read
local touched = {}

local function registered_of(node)
  if not node.registered then
    node.registered = {}
    for _, model in ipairs(read(LISTS, node.name) or {}) do node.registered[model] = true end
  end
  return node.registered
end

local function forget_if_empty(node)
  if not node.place.e and not next(registered_of(node)) then node.place = {l = 0, s = 0} end
end

local function forget_lease(node)
  node.inventory, node.withdrawn, node.place.e = {}, {}, nil
  forget_if_empty(node)
end

local function node_of(name)
  local node = touched[name]
  if not node then
    node = {name = name, place = read(NODES, name) or {l = 0, s = 0}, withdrawn = {}}
    touched[name] = node
  end
  -- A new lease must not bring back the holdings of one that has ended.
  if node.place.e and node.place.e <= now then forget_lease(node) end
  return node
end

local function forget_registered(node, model)
  if not registered_of(node)[model] then return end
  node.registered[model], node.is_list_new = nil, true
  redis.call('HDEL', REGISTERED, node.name .. '\n' .. model)
  redis.call('ZREM', LEASES, 'r\n' .. node.name .. '\n' .. model)
end

local function move(node, change)
  node.place.a, node.place.z = change.a or node.place.a, change.z or node.place.z
end

local function beat(node, change)
  move(node, change)
  node.place.l, node.place.s, node.place.e = change.l, change.s, change.e
  if not change.i then return end
  node.inventory, node.withdrawn = change.i, {}
  for _, pair in ipairs(change.i) do forget_registered(node, pair[1]) end
end

local function register(node, change)
  move(node, change)
  node.withdrawn[change.m] = true
  registered_of(node)[change.m], node.is_list_new = true, true
  redis.call('HSET', REGISTERED, node.name .. '\n' .. change.m, change.h)
  local lease = 'r\n' .. node.name .. '\n' .. change.m
  if change.e then redis.call('ZADD', LEASES, change.e, lease) else redis.call('ZREM', LEASES, lease) end
end

local function withdraw(node, change)
  node.withdrawn[change.m] = true
  forget_registered(node, change.m)
  forget_if_empty(node)
end

local function leave(node)
  for model in pairs(registered_of(node)) do forget_registered(node, model) end
  forget_lease(node)
end

local function write_inventory(node)
  local list = node.inventory or (next(node.withdrawn) and read(INVENTORIES, node.name))
  if not list then return end
  local kept = {}
  for _, pair in ipairs(list) do
    if not node.withdrawn[pair[1]] then kept[#kept + 1] = pair end
  end
  if node.inventory or #kept < #list then write(INVENTORIES, node.name, kept) end
end

local function write_registered(node)
  if not node.is_list_new then return end
  local list = {}
  for model in pairs(node.registered) do list[#list + 1] = model end
  write(LISTS, node.name, list)
end

local function write_node(node)
  write_inventory(node)
  write_registered(node)
  if node.place.e then
    redis.call('ZADD', LEASES, node.place.e, 'n\n' .. node.name)
  else
    redis.call('ZREM', LEASES, 'n\n' .. node.name)
  end
  if node.place.e or next(registered_of(node)) then
    redis.call('HSET', NODES, node.name, cmsgpack.pack(node.place))
  else
    redis.call('HDEL', NODES, node.name)
  end
end

local function pass_on() end -- a rejection is not kept

local apply = {b = beat, r = register, w = withdraw, l = leave, x = pass_on}
for _, change in ipairs(changes) do apply[change.k](node_of(change.n), change) end
for _, node in pairs(touched) do write_node(node) end

return {number, time[1], time[2]}
