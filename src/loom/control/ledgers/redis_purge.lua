-- Remove leases that ended some time ago, by Redis's own clock. This is no change for the stream: every control plane ended
-- them at the same time. A lease that was renewed since has another score, and stays.
--
-- KEYS as in redis.lua. ARGV  seconds since the end, most leases. Returns how many were removed.

local _, _, _, NODES, INVENTORIES, REGISTERED, LISTS, LEASES = unpack(KEYS)
local now = tonumber(redis.call('TIME')[1])
local over = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now - tonumber(ARGV[1]), 'LIMIT', 0, tonumber(ARGV[2]))

local function forget_registered(node, model)
  redis.call('HDEL', REGISTERED, node .. '\n' .. model)
  local packed = redis.call('HGET', LISTS, node)
  local kept = {}
  for _, one in ipairs(packed and cmsgpack.unpack(packed) or {}) do
    if one ~= model then kept[#kept + 1] = one end
  end
  if #kept > 0 then
    redis.call('HSET', LISTS, node, cmsgpack.pack(kept))
  else
    redis.call('HDEL', LISTS, node)
  end
end

for _, lease in ipairs(over) do
  redis.call('ZREM', LEASES, lease)
  local kind, node, model = string.match(lease, '^(.)\n([^\n]*)\n?(.*)$')
  if kind == 'n' then redis.call('HDEL', INVENTORIES, node) else forget_registered(node, model) end
  local is_left = redis.call('ZSCORE', LEASES, 'n\n' .. node) or redis.call('HEXISTS', LISTS, node) == 1
  if not is_left then redis.call('HDEL', NODES, node) end
end

return #over
